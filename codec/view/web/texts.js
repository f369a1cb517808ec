/**
 * Names and labels of the images of a block. FORMAT.md 3.3 and 3.7; codec/format's names.py and
 * labels.py.
 */
import { AezError, Cursor } from "./bytes.js";
import { unzstd } from "./zstd.js";

const MAX_NAMES_BYTES = 1 << 24, MAX_LABELS_BYTES = 1 << 21;
const TEXTS = 0x80, WIDTH = 0x07;
const MAX_TEXT_BYTES = 255;
const CHUNK = 4096; // units of a text that are joined at once

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
    const units = new Uint16Array(bytes.length); // of UTF-16
    let size = 0;
    for (let at = 0; at < bytes.length;) {
        const count = characterBytes(bytes, at);
        let code = count < 2 ? bytes[at] : bytes[at] & (0x7f >> count);
        if (!count) code += 0xdc00;
        for (let k = 1; k < count; k++) code = (code << 6) | (bytes[at + k] & 0x3f);
        if (code > 0xffff) {
            units[size++] = 0xd7c0 + (code >> 10);
            code = 0xdc00 | (code & 0x3ff);
        }
        units[size++] = code;
        at += count || 1;
    }
    let text = "";
    for (let at = 0; at < size; at += CHUNK) {
        text += String.fromCharCode(...units.subarray(at, Math.min(at + CHUNK, size)));
    }
    return text;
}

/** Bytes of the character of UTF-8 at a place, 0 if there is none. Unicode's table 3-7. */
function characterBytes(bytes, at) {
    const first = bytes[at];
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return 0;
    const least = { 0xe0: 0xa0, 0xf0: 0x90 }[first] ?? 0x80;
    const most = { 0xed: 0x9f, 0xf4: 0x8f }[first] ?? 0xbf;
    const count = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (!(bytes[at + 1] >= least && bytes[at + 1] <= most)) return 0;
    for (let k = 2; k < count; k++) if ((bytes[at + k] & 0xc0) !== 0x80) return 0;
    return count;
}

/** Texts that each end with a zero byte; no more than `most` + 1 of them. */
function split(bytes, most) {
    const parts = [];
    for (let at = 0; at < bytes.length && parts.length <= most;) {
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
    const names = split(content, count);
    if (names.length !== count || content[content.length - 1] !== 0) {
        const found = names.length > count ? "more" : names.length;
        throw new AezError("CorruptPayload", `${found} names for ${count} images`, offset);
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
    if (texts.length !== number || listed[listed.length - 1] !== 0) {
        throw fail("CorruptPayload", `label texts: not the ${number} that are stated, or no end`);
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
