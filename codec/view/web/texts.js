/**
 * Names and labels of the images of a block. FORMAT.md 3.3 and 3.7; codec/format's names.py and
 * labels.py.
 */
import { AezError, Cursor } from "./bytes.js";
import { unzstd } from "./zstd.js";

const MAX_NAMES_BYTES = 1 << 24, MAX_LABELS_BYTES = 1 << 21;
const TEXTS = 0x80, WIDTH = 0x07;
const MAX_TEXT_BYTES = 255;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * UTF-8 -> text. A byte that is no UTF-8 becomes U+DC00 plus the byte, a lone surrogate, so that it
 * is not lost (as Python's surrogateescape).
 */
export function textOf(bytes) {
    try {
        return UTF8.decode(bytes);
    } catch {
        return escaped(bytes);
    }
}

function escaped(bytes) {
    const units = new Uint16Array(bytes.length); // of UTF-16: never more than bytes
    let end = 0;
    for (let at = 0; at < bytes.length;) {
        const size = characterBytes(bytes, at);
        let code = bytes[at++];
        if (size) code &= 0x7f >> (size - 1);
        else code += 0xdc00;
        for (let i = 1; i < size; i++) code = (code << 6) | (bytes[at++] & 0x3f);
        if (code < 0x10000) units[end++] = code;
        else {
            units[end++] = 0xd7c0 + (code >> 10);
            units[end++] = 0xdc00 + (code & 0x3ff);
        }
    }
    const pieces = []; // a call takes so many numbers
    for (let at = 0; at < end; at += 1 << 13) {
        pieces.push(String.fromCharCode(...units.subarray(at, Math.min(at + (1 << 13), end))));
    }
    return pieces.join("");
}

// What the second byte of a character can be, by the first: neither longer than it need be, nor a
// surrogate, nor beyond U+10FFFF. RFC 3629 4.
const LEAST = new Map([[0xe0, 0xa0], [0xf0, 0x90]]), MOST = new Map([[0xed, 0x9f], [0xf4, 0x8f]]);

/** Bytes of the character of UTF-8 at a place, 0 if there is none. */
function characterBytes(bytes, at) {
    const first = bytes[at];
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return 0;
    const size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    const second = bytes[at + 1];
    if (!(second >= (LEAST.get(first) ?? 0x80) && second <= (MOST.get(first) ?? 0xbf))) return 0;
    for (let i = 2; i < size; i++) if ((bytes[at + i] & 0xc0) !== 0x80) return 0;
    return size;
}

/** `count` texts that each end with a zero byte; null if there are more, fewer, or no end. */
function split(bytes, count) {
    // Counted first: millions of views of empty texts would take gigabytes.
    let zeros = 0;
    for (const byte of bytes) if (byte === 0) zeros++;
    if (zeros !== count || bytes[bytes.length - 1] !== 0) return null;
    let at = 0;
    return Array.from({ length: count }, () => {
        const end = bytes.indexOf(0, at);
        const text = bytes.subarray(at, end);
        at = end + 1;
        return text;
    });
}

/** @returns {string[]} the names of `count` images. @throws {AezError} */
export function unpackNames(frame, count, offset) {
    const content = unzstd(frame, { most: MAX_NAMES_BYTES, what: "the names", offset });
    const names = split(content, count);
    if (!names) {
        const found = `not one name for each of ${count} images, or no end`;
        throw new AezError("CorruptPayload", found, offset);
    }
    return names.map(textOf);
}

/**
 * Where the frame of the labels lies in a names area, of which the first 5 bytes are enough.
 * @returns {{at: number, size: number}}
 */
export function labelsSpan(area, header, offset) {
    const start = new Cursor(area, 0, offset);
    const size = start.varint();
    const left = header.namesBytes - start.at;
    if (size > MAX_LABELS_BYTES || size > left) {
        const most = Math.min(left, MAX_LABELS_BYTES);
        throw start.fail("LimitExceeded", `labels of ${size} bytes, at most ${most} have room`, 0);
    }
    if (size < left && !header.hasNames) {
        throw start.fail("TrailingData", `${left - size} bytes follow the labels`);
    }
    return { at: start.at, size };
}

/** @returns {number[] | string[]} the labels of `count` images. @throws {AezError} */
export function unpackLabels(frame, count, offset) {
    const fail = (kind, message) => new AezError(kind, message, offset);
    const content = unzstd(frame, {
        most: MAX_LABELS_BYTES, least: 1, what: "the labels", offset, check: true, alone: true,
    });
    const kind = content[0];
    const width = kind & WIDTH;
    if (kind & ~(TEXTS | WIDTH) || ![1, 2, 4].includes(width)) {
        throw fail("ReservedBitsSet", `labels of kind ${kind}`);
    }
    const end = content.length - count * width;
    if (!(kind & TEXTS)) {
        if (end !== 1) {
            const found = `${content.length - 1} bytes for ${count} labels of ${width} each`;
            throw fail("CorruptPayload", found);
        }
        return numbersOf(content.subarray(1), width, count);
    }
    const texts = textsOf(content, end, count, fail);
    return numbersOf(content.subarray(end), width, count).map((number) => {
        if (number >= texts.length) {
            throw fail("CorruptPayload", `label text ${number} of ${texts.length}`);
        }
        return texts[number];
    });
}

/** Planes, the one of the lowest bytes first -> numbers. */
function numbersOf(planes, width, count) {
    return Array.from({ length: count }, (_, i) => {
        let number = 0;
        for (let k = 0; k < width; k++) number += planes[k * count + i] * 256 ** k;
        return number;
    });
}

/** The texts that are listed before `end`. */
function textsOf(content, end, count, fail) {
    const start = new Cursor(content, 1);
    let number;
    try {
        number = start.varint(3);
    } catch (error) {
        throw fail("CorruptPayload", `the number of label texts: ${error.message}`);
    }
    if (number < 1 || number > count) {
        throw fail("LimitExceeded", `${number} label texts for ${count} images`);
    }
    const listed = content.subarray(start.at, Math.max(start.at, end));
    const texts = split(listed, number);
    if (!texts) throw fail("CorruptPayload", `not ${number} label texts, or no end`);
    return texts.map((bytes) => {
        if (!bytes.length || bytes.length > MAX_TEXT_BYTES) {
            throw fail("CorruptPayload", `a label text has ${bytes.length} bytes`);
        }
        try {
            return UTF8.decode(bytes);
        } catch {
            throw fail("CorruptPayload", "a label text is not UTF-8");
        }
    });
}
