/**
 * The index of a block: its parts, and where the message of each group lies. FORMAT.md 3.4 and 3.5;
 * codec/format/index.py.
 *
 * The images of a part share a model and a quality. Neighbours within a part share a message: they
 * are a group.
 */
import { checksum, Cursor, hex, same } from "./bytes.js";
import { checkQuality, groupImages, LOSSLESS_QUALITY } from "./headers.js";

const MAX_MODELS = 256, MAX_PARTS = 1024;

/**
 * @typedef {{part: Part, images: Int32Array, at: number, size: number}} Group images: their numbers
 *     in the block; at, size: of the message in the payload, in bytes
 * @typedef {{modelHash: string, quality: number}} Part
 */

/**
 * @param {Uint8Array} area the index area
 * @param {object} header of the block, from `blockHeader`
 * @param {number} offset of the area in the stream
 * @returns {{groups: Group[], groupOf: Int32Array}} groupOf: the group of each image
 * @throws {AezError}
 */
export function unpackIndex(area, header, offset) {
    const index = new Cursor(area, 0, offset);
    const parts = header.hasParts ? partsOf(index, header) : [onlyPart(header)];
    const groups = [];
    const groupOf = new Int32Array(header.images);
    let at = 0;
    for (const part of parts) {
        const size = groupImages(part.quality);
        const lengths = lengthsOf(index, part.quality, Math.ceil(part.images.length / size));
        lengths.forEach((length, k) => {
            const images = part.images.subarray(k * size, (k + 1) * size);
            for (const image of images) groupOf[image] = groups.length;
            groups.push({ part, images, at, size: length });
            at += length;
        });
    }
    if (index.left) {
        throw index.fail("TrailingData", `${index.left} bytes follow the index`);
    }
    if (at !== header.payloadBytes) {
        const found = `the groups have ${at} bytes, the payload ${header.payloadBytes}`;
        throw index.fail("LimitExceeded", found, 0);
    }
    return { groups, groupOf };
}

/** The part of a block that has only one. */
export function onlyPart({ modelHash, quality, images }) {
    return { modelHash, quality, images: Int32Array.from({ length: images }, (_, i) => i) };
}

function lengthsOf(index, quality, count) {
    if (quality >= LOSSLESS_QUALITY) return Array.from({ length: count }, () => index.varint(3));
    const start = index.at;
    const mean = index.varint(3);
    const limit = index.varint();
    if (limit < count) {
        const found = `${count} lengths do not fit below their limit, ${limit}`;
        throw index.fail("LimitExceeded", found);
    }
    let before = -1;
    return index.rice(count, limit).map((position) => {
        const code = position - before - 1; // 0, 1, 2, 3, 4: 0, -1, 1, -2, 2 from the mean
        before = position;
        const length = mean + (code % 2 ? -(code + 1) / 2 : code / 2);
        if (length < 0) throw index.fail("LimitExceeded", `a group claims ${length} bytes`, start);
        return length;
    });
}

function partsOf(index, header) {
    const moreModels = index.varint(3);
    if (moreModels >= MAX_MODELS) {
        const found = `a block has ${moreModels} further models`;
        throw index.fail("LimitExceeded", `${found}, at most ${MAX_MODELS - 1} are allowed`, 0);
    }
    const hashes = [header.modelHash];
    for (let i = 0; i < moreModels; i++) hashes.push(hex(index.take(8)));
    const moreParts = index.varint(3);
    if (moreParts < 1 || moreParts >= MAX_PARTS) {
        const found = `a block has ${moreParts} further parts`;
        throw index.fail("LimitExceeded", `${found}, 1 to ${MAX_PARTS - 1} are allowed`, 0);
    }
    let left = onlyPart(header).images;
    const parts = [];
    for (let i = 0; i < moreParts; i++) {
        const part = partOf(index, hashes, left);
        parts.push(part);
        const taken = new Set(part.images);
        left = left.filter((image) => !taken.has(image));
    }
    const end = index.at;
    const check = index.bytes.subarray(end, end + 4);
    if (!same(checksum(4, index.bytes.subarray(0, end)), check)) {
        throw index.fail("ChecksumMismatch", "the parts of a block are damaged", 0);
    }
    index.take(4);
    return [{ modelHash: header.modelHash, quality: header.quality, images: left }, ...parts];
}

function partOf(index, hashes, left) {
    const start = index.at;
    if (index.left < 2) throw index.fail("Truncated", "the index ends inside its parts");
    const [model, quality] = index.take(2);
    if (model >= hashes.length) {
        const found = `a part has model ${model}, but the block only ${hashes.length}`;
        throw index.fail("LimitExceeded", `${found}, the first is 0`, start);
    }
    checkQuality(quality, index.base + start + 1);
    const count = index.varint(3);
    if (count < 1 || count >= left.length) {
        const found = `a part has ${count} images, 1 to ${left.length - 1} are possible`;
        throw index.fail("LimitExceeded", found, start);
    }
    const positions = index.rice(count, left.length);
    const images = Int32Array.from(positions, (position) => left[position]);
    return { modelHash: hashes[model], quality, images };
}
