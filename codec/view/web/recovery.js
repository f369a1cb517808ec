/**
 * Finding the blocks of a collection: by its footer, or without it. FORMAT.md 4 and 9;
 * codec/collection/salvage.py.
 */
import { AezError } from "./bytes.js";
import {
    BLOCK_BYTES,
    blockHeader,
    blocksOf,
    COLLECTION_BYTES,
    FOOTER_END_BYTES,
    footerBytes,
} from "./headers.js";

const WINDOW_BYTES = 1 << 20; // searched at a time
const MAX_FALSE = 10000; // headers that are none, in a whole stream: more are no accident
const TRAILING_BYTES = 1 << 16, MAX_ENDS = 16; // searched for an earlier end; ends tried
const BLOCK_MAGIC = [0x61, 0x65, 0x7a, 0x42], END_MAGIC = [0x61, 0x65, 0x7a, 0x45];

/**
 * The blocks that the footer lists. start: where blocks start, null if the header is damaged.
 * @throws {AezError}
 */
export async function listedBlocks(source, start) {
    try {
        return await blocksThatEndAt(source.size, source, start);
    } catch (error) {
        if (!(error instanceof AezError)) throw error;
        throw (await trailingData(source, start)) ?? error;
    }
}

async function blocksThatEndAt(end, source, start) {
    const tailAt = Math.max(0, end - FOOTER_END_BYTES);
    const size = footerBytes(await source.read(tailAt, end - tailAt), end);
    return blocksOf(await source.read(end - size, size), end - size, start);
}

/** The error of a collection that is whole, but does not end with the file; or null. */
async function trailingData(source, start) {
    const from = Math.max(0, source.size - TRAILING_BYTES);
    const searched = await source.read(from, TRAILING_BYTES);
    let before = searched.length - 1;
    for (let tries = 0; tries < MAX_ENDS; tries++) {
        const at = lastIndexOf(searched, END_MAGIC, before);
        if (at < 0) return null;
        before = at + END_MAGIC.length - 1;
        const end = from + at + END_MAGIC.length;
        try {
            await blocksThatEndAt(end, source, start);
        } catch (error) {
            if (error instanceof AezError) continue;
            throw error;
        }
        const found = `${source.size - end} bytes after the end of the collection`;
        return new AezError("TrailingData", found, end);
    }
    return null;
}

/**
 * The blocks that can be found from `start` on without the footer.
 * @returns {Promise<{offset: number, size: number, first: number, images: number}[]>}
 */
export async function foundBlocks(source, start) {
    const blocks = [];
    const search = { left: MAX_FALSE };
    let first = 0;
    for (let next = await nextBlock(source, start, search); next; ) {
        const { offset, header } = next;
        blocks.push({ offset, size: header.blockBytes, first, images: header.images });
        first += header.images;
        next = await nextBlock(source, offset + header.blockBytes, search);
    }
    return blocks;
}

/** Where the blocks start, without the header; null: there is none. */
export async function firstBlock(source) {
    try {
        const blocks = await listedBlocks(source, null);
        return blocks.length ? blocks[0].offset : COLLECTION_BYTES;
    } catch (error) {
        if (!(error instanceof AezError)) throw error;
        return (await nextBlock(source, COLLECTION_BYTES)) ? COLLECTION_BYTES : null;
    }
}

/**
 * The first intact block header from `offset` on; every byte is searched once. search: how many
 * headers that are none are looked at before it ends.
 */
async function nextBlock(source, offset, search = { left: MAX_FALSE }) {
    for (let start = offset; start < source.size; start += WINDOW_BYTES) {
        const searched = await source.read(start, WINDOW_BYTES + BLOCK_BYTES - 1);
        let at = indexOf(searched, BLOCK_MAGIC, 0);
        for (; at >= 0 && at < WINDOW_BYTES; at = indexOf(searched, BLOCK_MAGIC, at + 1)) {
            try {
                const header = blockHeader(searched.subarray(at, at + BLOCK_BYTES), start + at);
                return { offset: start + at, header };
            } catch (error) {
                if (!(error instanceof AezError)) throw error;
                if (--search.left < 0) return null;
            }
        }
    }
    return null;
}

function indexOf(bytes, wanted, from) {
    for (let at = bytes.indexOf(wanted[0], from); at >= 0; at = bytes.indexOf(wanted[0], at + 1)) {
        if (wanted.every((byte, i) => bytes[at + i] === byte)) return at;
    }
    return -1;
}

/** The last place before `end` at which the wanted bytes lie whole. */
function lastIndexOf(bytes, wanted, end) {
    for (let at = end - wanted.length; at >= 0; at--) {
        if (wanted.every((byte, i) => bytes[at + i] === byte)) return at;
    }
    return -1;
}
