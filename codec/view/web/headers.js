/**
 * Headers of single images, collections and blocks, and the footer. FORMAT.md 2, 3.1, 3.2, 4;
 * codec/format's headers.py and footer.py. The order of checks: bytes present, magic, version,
 * reserved bits, ranges, checks.
 */
import { AezError, Cursor, checksum, crc8, hex, isText, same } from "./bytes.js";

export const LOSSLESS_QUALITY = 100;
export const STORED_QUALITY = 101;
export const NEAR_LOSSLESS = 128;
export const MAX_IMAGE_STREAM_BYTES = 1 << 16;
export const COLLECTION_BYTES = 4, BLOCK_BYTES = 46, FOOTER_BYTES = 16, FOOTER_END_BYTES = 24;
const IMAGE_BYTES = 6, ENTRY_BYTES = 6;
const VERSION = 1, FLAG_COLLECTION = 8, FLAG_EXTENDED = 4, RESERVED_FLAGS = 3;
const MAX_ERROR = 64, MAX_BLOCK_IMAGES = 4096;
const MAX_NAMES_BYTES = 1 << 24, MAX_EXTENSION_BYTES = 1 << 24, MAX_MODEL_BYTES = 1 << 24;
const MIN_MODEL_BYTES = 1024; // the list of its tensors alone is longer
const BLOCK_NAMES = 1, BLOCK_PARTS = 2, BLOCK_LABELS = 4;
const MODEL_HASH = 0x01, MODELS = 0x80; // types of extension fields

/** Check magic, version and reserved flags. @returns {number} the flags */
function startOf(stream) {
    const magic = stream.subarray(0, 2);
    if (!same(magic, [0xae, 0x5a].slice(0, magic.length))) {
        const found = `it begins with ${hex(magic)}, not ae5a`;
        throw new AezError("BadMagic", `not an .aez file: ${found}`, 0);
    }
    if (stream.length < 3) throw cutShort(stream);
    const version = stream[2] >> 4, flags = stream[2] & 15;
    if (version !== VERSION) {
        const found = `version ${version}, this reader knows ${VERSION}`;
        throw new AezError("UnsupportedVersion", found, 2);
    }
    if (flags & RESERVED_FLAGS) {
        const found = `reserved flags ${flags & RESERVED_FLAGS} are set`;
        throw new AezError("ReservedBitsSet", found, 2);
    }
    return flags;
}

function cutShort(stream) {
    const found = stream.length ? "the stream ends inside its header" : "the stream is empty";
    return new AezError("Truncated", found, stream.length);
}

/** Whether a stream, of which the first 3 bytes are enough, is a collection. */
export function isCollection(stream) {
    return (startOf(stream.subarray(0, 3)) & FLAG_COLLECTION) > 0;
}

/** @throws {AezError} unless the quality is 0 to highest or near-lossless; offset: for the message */
export function checkQuality(quality, offset, highest = LOSSLESS_QUALITY) {
    const bound = quality - NEAR_LOSSLESS;
    if (quality > highest && !(bound >= 1 && bound <= MAX_ERROR)) {
        const known = `0 to ${highest} and ${NEAR_LOSSLESS + 1} to ${NEAR_LOSSLESS + MAX_ERROR}`;
        const found = `quality ${quality}, this reader knows ${known}`;
        throw new AezError("ReservedBitsSet", found, offset);
    }
}

/** How much any pixel can differ from the original; null: there is no bound. */
export function maxErrorOf(quality) {
    if (quality < LOSSLESS_QUALITY) return null;
    return quality > NEAR_LOSSLESS ? quality - NEAR_LOSSLESS : 0;
}

/** Images in a full group. */
export function groupImages(quality) {
    return quality >= 50 && quality < LOSSLESS_QUALITY ? 5 : 16;
}

/** The fields of the extension area at `offset`, by type, and where it ends. */
function extension(stream, offset) {
    const area = new Cursor(stream, offset);
    const size = area.varint();
    if (size > MAX_EXTENSION_BYTES) {
        const found = `the extension has ${size} bytes`;
        throw area.fail("LimitExceeded", `${found}, at most ${MAX_EXTENSION_BYTES} are allowed`);
    }
    const end = area.at + size;
    if (end > stream.length) {
        const found = `the extension ends at byte ${end}, the stream has ${stream.length}`;
        throw area.fail("Truncated", found);
    }
    area.bytes = stream.subarray(0, end);
    const fields = new Map();
    while (area.left) {
        const at = area.at;
        const kind = area.byte();
        const length = area.varint();
        if (length > area.left) {
            throw area.fail("Truncated", `extension field ${kind} runs past the extension`, at);
        }
        const value = area.take(length);
        if (kind === MODEL_HASH && length !== 8) {
            throw area.fail("LimitExceeded", `a model hash has ${length} bytes, not 8`, at);
        }
        if (kind < 0x80 && kind !== MODEL_HASH) {
            const found = `extension field ${kind} is needed, but this reader does not know it`;
            throw area.fail("UnsupportedVersion", found, at);
        }
        fields.set(kind, value);
    }
    return { fields, end };
}

/**
 * The header of a single image.
 * @returns {{modelId: number, quality: number, modelHash: string, payloadAt: number}} modelHash:
 *     hexadecimal, "" if the model has a number or there is none
 */
export function imageHeader(stream) {
    const flags = startOf(stream);
    if (stream.length < IMAGE_BYTES) throw cutShort(stream);
    if (stream.length > MAX_IMAGE_STREAM_BYTES) {
        const found = `one image has ${stream.length} bytes`;
        const most = `at most ${MAX_IMAGE_STREAM_BYTES} are allowed`;
        throw new AezError("LimitExceeded", `${found}, ${most}`, 0);
    }
    const [, , , modelId, quality] = stream;
    checkQuality(quality, 4, STORED_QUALITY);
    let modelHash = "", payloadAt = IMAGE_BYTES;
    if (flags & FLAG_EXTENDED) {
        const { fields, end } = extension(stream, IMAGE_BYTES);
        modelHash = hex(fields.get(MODEL_HASH) ?? []);
        payloadAt = end;
    }
    const named = modelHash !== "";
    if (quality === STORED_QUALITY ? modelId > 0 || named : (modelId === 0) !== named) {
        const found = `model number ${modelId} ${named ? "with" : "without"} a model hash`;
        throw new AezError("ReservedBitsSet", found, 3);
    }
    return { modelId, quality, modelHash, payloadAt };
}

/** Verify the Check of a single image. modelSha256: 32 bytes, none of a stored image. */
export function verifyImage(stream, modelSha256) {
    if (crc8(modelSha256, stream.subarray(0, 5), stream.subarray(6)) !== stream[5]) {
        const found = "the stream is damaged: its Check does not match its bytes";
        throw new AezError("ChecksumMismatch", found, 5);
    }
}

/** How many bytes the header of a collection has, by its first ones (9 are enough). */
export function collectionHeaderBytes(start) {
    if (start.length <= COLLECTION_BYTES || !(start[2] & FLAG_EXTENDED)) return COLLECTION_BYTES;
    const area = new Cursor(start, COLLECTION_BYTES);
    const size = area.varint();
    return area.at + Math.min(size, MAX_EXTENSION_BYTES);
}

/**
 * The header of a collection, checked.
 * @returns {{start: number, models: () => Uint8Array[]}} where blocks start; the embedded model
 *     files, whose lengths are looked at (AezError) only if somebody asks for them
 */
export function collectionHeader(stream) {
    const flags = startOf(stream);
    if (!(flags & FLAG_COLLECTION)) {
        throw new AezError("BadMagic", "this is a single image, not a collection");
    }
    if (stream.length < COLLECTION_BYTES) throw cutShort(stream);
    const { fields, end } =
        flags & FLAG_EXTENDED
            ? extension(stream, COLLECTION_BYTES)
            : { fields: new Map(), end: COLLECTION_BYTES };
    if (crc8(stream.subarray(0, 3), stream.subarray(COLLECTION_BYTES, end)) !== stream[3]) {
        throw new AezError("ChecksumMismatch", "the collection header is damaged", 3);
    }
    return { start: end, models: () => embedded(fields.get(MODELS) ?? new Uint8Array(0)) };
}

/** Whether the Check of a collection header holds, even if this reader does not understand it. */
export function isIntact(header) {
    if (header.length < COLLECTION_BYTES) return false;
    const area = new Cursor(header, COLLECTION_BYTES);
    try {
        if (header[2] & FLAG_EXTENDED) area.take(area.varint());
    } catch {
        return false;
    }
    const covered = [header.subarray(0, 3), header.subarray(COLLECTION_BYTES, area.at)];
    return crc8(...covered) === header[3];
}

/** Model files. Those that are too small to be one are left out: there could be millions. */
function embedded(value) {
    const area = new Cursor(value);
    const models = [];
    while (area.left) {
        const size = area.varint();
        if (size > MAX_MODEL_BYTES) throw area.fail("LimitExceeded", "a model is too large");
        const model = area.take(size);
        if (size >= MIN_MODEL_BYTES) models.push(model);
    }
    return models;
}

/**
 * The header of a block, checked. offset: of the block in the stream.
 * @returns {{modelHash: string, quality: number, hasNames: boolean, hasParts: boolean,
 *     hasLabels: boolean, images: number, namesBytes: number, indexBytes: number,
 *     payloadBytes: number, blockBytes: number, checksum: Uint8Array}}
 */
export function blockHeader(stream, offset) {
    if (stream.length < BLOCK_BYTES) {
        const found = "the stream ends inside a block header";
        const lacks = `which lacks ${BLOCK_BYTES - stream.length} bytes`;
        throw new AezError("Truncated", `${found}, ${lacks}`, offset);
    }
    const fields = new Cursor(stream, 0, offset);
    if (!isText(fields.take(4), "aezB")) {
        throw fields.fail("BadMagic", "there is no block here", 0);
    }
    if (!same(checksum(4, stream.subarray(0, 26)), stream.subarray(26, 30))) {
        throw fields.fail("ChecksumMismatch", "this block header is damaged", 0);
    }
    const modelHash = hex(fields.take(8));
    const quality = fields.byte();
    checkQuality(quality, offset + 12);
    const flags = fields.byte();
    if (flags & ~(BLOCK_NAMES | BLOCK_PARTS | BLOCK_LABELS)) {
        throw fields.fail("ReservedBitsSet", `reserved block flags: ${flags}`, 13);
    }
    const images = fields.number(2);
    const namesBytes = fields.number(4);
    const indexBytes = fields.number(2);
    const payloadBytes = fields.number(4);
    if (images < 1 || images > MAX_BLOCK_IMAGES) {
        const found = `a block has ${images} images, 1 to ${MAX_BLOCK_IMAGES} are allowed`;
        throw fields.fail("LimitExceeded", found, 14);
    }
    if (namesBytes > MAX_NAMES_BYTES || payloadBytes > Math.ceil(images / 16) * 2 ** 20) {
        const found = "a block claims more bytes than its images can need";
        throw fields.fail("LimitExceeded", found, 16);
    }
    return {
        modelHash, quality, images, namesBytes, indexBytes, payloadBytes,
        hasNames: (flags & BLOCK_NAMES) > 0,
        hasParts: (flags & BLOCK_PARTS) > 0,
        hasLabels: (flags & BLOCK_LABELS) > 0,
        blockBytes: BLOCK_BYTES + namesBytes + indexBytes + payloadBytes,
        checksum: stream.slice(30, 46),
    };
}

/** Verify the Checksum of a whole block. */
export function verifyBlock(block, header, offset) {
    const found = checksum(16, block.subarray(0, 30), block.subarray(BLOCK_BYTES));
    if (!same(found, header.checksum)) {
        throw new AezError("ChecksumMismatch", "this block is damaged", offset);
    }
}

/** Footer_Bytes, from the last 24 bytes of a stream of `size` bytes. */
export function footerBytes(tail, size) {
    if (tail.length < FOOTER_END_BYTES) {
        throw new AezError("Truncated", "the collection ends before its footer", size);
    }
    if (!isText(tail.subarray(20), "aezE")) {
        const found = "the file does not end as a collection does";
        throw new AezError("Truncated", `${found}: it is cut short or its end is damaged`);
    }
    const bytes = new Cursor(tail, 16).number(4);
    if (bytes < FOOTER_BYTES + FOOTER_END_BYTES || bytes > size - COLLECTION_BYTES) {
        const found = `the footer claims ${bytes} bytes of a stream of ${size}`;
        throw new AezError("LimitExceeded", found, size - 8);
    }
    return bytes;
}

/**
 * The blocks that a footer lists. offset: of the footer; start: where blocks start, null if the
 * header is damaged.
 * @returns {{offset: number, size: number, first: number, images: number}[]}
 */
export function blocksOf(footer, offset, start) {
    const fields = new Cursor(footer, 0, offset);
    if (!isText(fields.take(4), "aezF")) {
        throw fields.fail("BadMagic", "there is no footer here", 0);
    }
    const total = fields.number(8), count = fields.number(4);
    if (FOOTER_BYTES + count * ENTRY_BYTES + FOOTER_END_BYTES !== footer.length) {
        const found = `${count} blocks do not fit into a footer of ${footer.length} bytes`;
        throw fields.fail("LimitExceeded", found, 12);
    }
    const end = footer.length - FOOTER_END_BYTES;
    if (!same(checksum(16, footer.subarray(0, end)), footer.subarray(end, end + 16))) {
        throw fields.fail("ChecksumMismatch", "the footer is damaged", 0);
    }
    let at = 0, first = 0;
    const blocks = Array.from({ length: count }, () => {
        const block = { offset: at, size: fields.number(4), first, images: fields.number(2) };
        at += block.size;
        first += block.images;
        return block;
    });
    if (first !== total) {
        const found = `the footer claims ${total} images, but its blocks hold ${first}`;
        throw fields.fail("LimitExceeded", found, 4);
    }
    const from = start ?? Math.max(COLLECTION_BYTES, offset - at);
    if (at !== offset - from) {
        const kind = at < offset - from ? "TrailingData" : "Truncated";
        const found = `the blocks take ${offset - from} bytes, but the footer lists ${at}`;
        throw fields.fail(kind, found, 0);
    }
    for (const block of blocks) block.offset += from;
    return blocks;
}

