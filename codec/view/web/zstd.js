/**
 * One zstd frame (RFC 8878) -> its content, by fzstd, which trusts what it reads.
 *
 * So the frame is looked at first: its content size must be stated and within a limit, and its blocks
 * must be there and give exactly that (zstd_blocks.js). So it takes no more memory and time than
 * this. A check of the content is verified.
 */
import { decompress } from "./vendor/fzstd.mjs";
import { AezError } from "./bytes.js";
import { BlockWalk, MAX_CONTENT } from "./zstd_blocks.js";

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const SINGLE_SEGMENT = 0x20, RESERVED = 0x08, HAS_CHECK = 0x04, HAS_DICTIONARY = 0x03;
const RLE = 1, PACKED = 2; // kinds of blocks

/**
 * @param {Uint8Array} frame
 * @param {{most: number, least?: number, what: string, offset: number, check?: boolean,
 *     alone?: boolean}} wanted most, least: bytes of the content; check: it must have a check;
 *     alone: nothing may follow the frame
 * @returns {Uint8Array} the content
 * @throws {AezError} LimitExceeded, CorruptPayload
 */
export function unzstd(frame, { most, least = 0, what, offset, check = false, alone = false }) {
    const damaged = (why) => new AezError("CorruptPayload", `${what} are damaged (${why})`, offset);
    if (frame.length < 5 || MAGIC.some((byte, i) => frame[i] !== byte)) {
        throw damaged("no zstd frame");
    }
    const { size, window, at, hasCheck } = header(frame, damaged);
    if (size === null || size > most || size < least) {
        const found = `${what} have ${size ?? "an unknown number of"} bytes`;
        throw new AezError("LimitExceeded", `${found}, at most ${most} are allowed`, offset);
    }
    if (check && !hasCheck) throw damaged("they have no check");
    const blocksEnd = endOfBlocks(frame, { size, window, at }, damaged);
    const end = blocksEnd + 4 * hasCheck;
    if (end > frame.length) throw damaged("the frame is cut off");
    if (alone && end < frame.length) throw damaged("bytes follow the frame");
    const content = new Uint8Array(size);
    try {
        decompress(frame.subarray(0, end), content);
    } catch (error) {
        throw damaged(error.message);
    }
    if (hasCheck) {
        const [stated] = new Uint32Array(frame.slice(blocksEnd, end).buffer);
        if (stated !== Number(xxh64(content) & 0xffffffffn)) throw damaged("the check differs");
    }
    return content;
}

/** Content size (null: not stated), size of the window, offset of the first block, whether there is a check. */
function header(frame, damaged) {
    const flags = frame[4];
    if (flags & RESERVED) throw damaged("a reserved bit is set");
    if (flags & HAS_DICTIONARY) throw damaged("it wants a dictionary");
    const single = (flags & SINGLE_SEGMENT) > 0;
    const width = flags >> 6 ? 1 << (flags >> 6) : Number(single);
    const sizeAt = single ? 5 : 6;
    if (sizeAt + width > frame.length) throw damaged("the frame is cut off");
    let size = width === 2 ? 256 : 0;
    for (let i = 0; i < width; i++) size += frame[sizeAt + i] * 256 ** i;
    const window = single ? size : 2 ** (10 + (frame[5] >> 3)) * (1 + (frame[5] & 7) / 8);
    const hasCheck = Number((flags & HAS_CHECK) > 0);
    return { size: width ? size : null, window, at: sizeAt + width, hasCheck };
}

/** Where the blocks from `at` on end, which must give `size` bytes. */
function endOfBlocks(frame, { size, window, at }, damaged) {
    const walk = new BlockWalk();
    const most = Math.min(window, MAX_CONTENT);
    let given = 0;
    for (let last = false; !last;) {
        if (at + 3 > frame.length) throw damaged("the frame is cut off");
        const start = frame[at] | (frame[at + 1] << 8) | (frame[at + 2] << 16);
        const kind = (start >> 1) & 3, bytes = start >> 3;
        if (kind === 3) throw damaged("a block of an unknown kind");
        if (bytes > most) throw damaged("a block is too large");
        last = (start & 1) > 0;
        at += 3;
        const block = frame.subarray(at, at + (kind === RLE ? 1 : bytes));
        at += kind === RLE ? 1 : bytes;
        if (at > frame.length) throw damaged("the frame is cut off");
        try {
            given += kind === PACKED ? walk.size(block, given, most) : bytes;
        } catch (error) {
            throw damaged(error.message);
        }
        if (given > size) throw damaged("there is more than the stated content");
    }
    if (given < size) throw damaged("there is less than the stated content");
    return at;
}

const PRIMES = [
    0x9e3779b185ebca87n, 0xc2b2ae3d27d4eb4fn, 0x165667b19e3779f9n, 0x85ebca77c2b2ae63n,
    0x27d4eb2f165667c5n,
];
const wrap = (value) => BigInt.asUintN(64, value);
const rotate = (value, by) => wrap((value << by) | (value >> (64n - by)));
const round = (sum, word) => wrap(rotate(wrap(sum + word * PRIMES[1]), 31n) * PRIMES[0]);

/** xxHash64 with seed 0, the check of zstd's contents. */
export function xxh64(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const [p1, p2, p3, p4, p5] = PRIMES;
    let at = 0;
    let hash = p5;
    if (bytes.length >= 32) {
        const sums = [wrap(p1 + p2), p2, 0n, wrap(-p1)];
        for (; at + 32 <= bytes.length; at += 32) {
            for (let i = 0; i < 4; i++) {
                sums[i] = round(sums[i], view.getBigUint64(at + 8 * i, true));
            }
        }
        hash = [1n, 7n, 12n, 18n].reduce((all, by, i) => all + rotate(sums[i], by), 0n);
        for (const sum of sums) hash = wrap((wrap(hash) ^ round(0n, sum)) * p1 + p4);
    }
    hash = wrap(hash + BigInt(bytes.length));
    for (; at + 8 <= bytes.length; at += 8) {
        hash = wrap(rotate(hash ^ round(0n, view.getBigUint64(at, true)), 27n) * p1 + p4);
    }
    for (; at + 4 <= bytes.length; at += 4) {
        hash = wrap(rotate(hash ^ wrap(BigInt(view.getUint32(at, true)) * p1), 23n) * p2 + p3);
    }
    for (; at < bytes.length; at++) {
        hash = wrap(rotate(hash ^ wrap(BigInt(bytes[at]) * p5), 11n) * p1);
    }
    hash = wrap((hash ^ (hash >> 33n)) * p2);
    hash = wrap((hash ^ (hash >> 29n)) * p3);
    return hash ^ (hash >> 32n);
}
