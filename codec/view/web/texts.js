/**
 * Names and labels of the images of a block. FORMAT.md 3.3 and 3.7; codec/format's names.py and
 * labels.py.
 */
import { AezError, Cursor } from "./bytes.js";
import { unzstd } from "./zstd.js";

const MAX_NAMES_BYTES = 1 << 24, MAX_LABELS_BYTES = 1 << 21;
const TEXTS = 0x80, WIDTH = 0x07;
const MAX_TEXT_BYTES = 255;

/**
 * UTF-8 -> text. A byte that is no UTF-8 becomes U+DC00 plus the byte, a lone surrogate, so that it
 * is not lost (as Python's surrogateescape).
 */
export function textOf(bytes) {
    try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
        // one character after the other
    }
    let text = "";
    for (let at = 0; at < bytes.length;) {
        const size = characterBytes(bytes, at);
        if (size) text += textOf(bytes.subarray(at, at + size));
        else text += String.fromCharCode(0xdc00 + bytes[at]);
        at += size || 1;
    }
    return text;
}

/** Bytes of the character of UTF-8 at a place, 0 if there is none. */
function characterBytes(bytes, at) {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    for (let size = 1; size <= 4 && at + size <= bytes.length; size++) {
        try {
            decoder.decode(bytes.subarray(at, at + size));
            return size;
        } catch {
            // perhaps with the next byte
        }
    }
    return 0;
}

/** Texts that each end with a zero byte. */
function split(bytes) {
    const parts = [];
    for (let at = 0; at < bytes.length;) {
        let end = bytes.indexOf(0, at);
        if (end < 0) end = bytes.length;
        parts.push(bytes.subarray(at, end));
        at = end + 1;
    }
    return parts;
}

/** @returns {string[]} the names of `count` images. @throws {AezError} */
export function unpackNames(frame, count, offset) {
    const content = unzstd(frame, { most: MAX_NAMES_BYTES, what: "the names", offset });
    const names = split(content);
    if (names.length !== count || content[content.length - 1] !== 0) {
        throw new AezError("CorruptPayload", `${names.length} names for ${count} images`, offset);
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
    const texts = split(listed);
    if (texts.length !== number || listed[listed.length - 1] !== 0) {
        throw fail("CorruptPayload", `${texts.length} label texts of ${number}, or no end`);
    }
    return texts.map((bytes) => {
        if (!bytes.length || bytes.length > MAX_TEXT_BYTES) {
            throw fail("CorruptPayload", `a label text has ${bytes.length} bytes`);
        }
        try {
            return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
        } catch {
            throw fail("CorruptPayload", "a label text is not UTF-8");
        }
    });
}
