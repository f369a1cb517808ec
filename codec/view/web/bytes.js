/**
 * What structures are made of: errors, numbers, checks. FORMAT.md 1.1 and 1.3; codec/format's
 * primitives.py and codec/errors.py.
 */
import { blake2b } from "./vendor/noble/blake2.js";
import { sha256 } from "./vendor/noble/sha2.js";

export { sha256 };

/**
 * An error of a stream or a model. kind: the name of the class in codec/errors.py, such as
 * "ChecksumMismatch"; offset: where in the stream, in bytes, or null; modelHash: of a
 * "ModelNotFound", 16 hexadecimal digits.
 */
export class AezError extends Error {
    constructor(kind, message, offset = null, modelHash = "") {
        super(offset ? `byte ${offset}: ${message}` : message);
        this.name = "AezError";
        this.kind = kind;
        this.offset = offset;
        this.modelHash = modelHash;
    }
}

/** What is thrown where the browser gives no more memory; the stream may be whole. */
export function noMemory() {
    const found = "this browser gives too little memory to decode this: close other pages";
    return new AezError("OutOfMemory", found);
}

export function isMemory(error) {
    return error.kind === "OutOfMemory";
}

/** The same bytes; of Node's Buffer, whose `slice` makes no copy, as a plain array. */
export function plain(bytes) {
    return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** So many bytes, 0. @throws {AezError} "OutOfMemory" */
export function allocated(size) {
    try {
        return new Uint8Array(size);
    } catch {
        throw noMemory();
    }
}

/** Bytes that are read from `at` on. base: where they lie in the stream, for messages. */
export class Cursor {
    constructor(bytes, at = 0, base = 0) {
        this.bytes = bytes;
        this.at = at;
        this.base = base;
    }

    get left() {
        return this.bytes.length - this.at;
    }

    fail(kind, message, at = this.at) {
        return new AezError(kind, message, this.base + at);
    }

    take(size) {
        if (size > this.left) throw this.fail("Truncated", "the stream ends inside a field");
        this.at += size;
        return this.bytes.subarray(this.at - size, this.at);
    }

    byte() {
        return this.take(1)[0];
    }

    /** An unsigned number of `size` bytes, the lowest first. */
    number(size) {
        return this.take(size).reduce((sum, byte, i) => sum + byte * 256 ** i, 0);
    }

    /** Seven bits a byte, the lowest first. */
    varint(maxBytes = 5) {
        const start = this.at;
        let value = 0;
        for (let i = 0; i < maxBytes; i++) {
            if (!this.left) throw this.fail("Truncated", "the stream ends inside a number", start);
            const byte = this.bytes[this.at++];
            value += (byte & 0x7f) * 128 ** i;
            if (byte < 0x80) return value;
        }
        throw this.fail("LimitExceeded", `a number has more than ${maxBytes} bytes`, start);
    }

    /** Rising positions below `limit`: the gaps between them in a Rice code. FORMAT.md 3.6. */
    rice(count, limit) {
        const start = this.at;
        const r = Math.floor(limit / count).toString(2).length - 1;
        const bits = new Bits(this.bytes, start);
        const positions = new Array(count);
        let zeros = 0;
        for (let i = 0; i < count; i++) zeros += positions[i] = bits.zeros();
        let at = -1;
        for (let i = 0; i < count; i++) {
            at += positions[i] * 2 ** r + bits.number(r) + 1;
            positions[i] = at;
        }
        if (bits.beyond || zeros > Math.floor(limit / 2 ** r)) {
            const found = "the index ends inside a list, or its numbers are too far apart";
            throw this.fail("Truncated", found, start);
        }
        if (at >= limit || bits.rest()) {
            const found = `a list ends at ${at} of ${limit}, or the bits after it are not zero`;
            throw this.fail("LimitExceeded", found, start);
        }
        this.at = bits.nextByte;
        return positions;
    }
}

/** Bits of bytes, the highest of each byte first. */
class Bits {
    constructor(bytes, at) {
        this.bytes = bytes;
        this.at = at * 8;
    }

    bit() {
        const byte = this.bytes[this.at >> 3];
        const bit = byte === undefined ? 1 : (byte >> (7 - (this.at & 7))) & 1; // ones end runs
        this.at++;
        return bit;
    }

    /** How many zeros come before the next one, which is read, too. */
    zeros() {
        let count = 0;
        while (!this.bit()) count++;
        return count;
    }

    number(size) {
        let value = 0;
        for (let i = 0; i < size; i++) value = value * 2 + this.bit();
        return value;
    }

    get beyond() {
        return this.at > this.bytes.length * 8;
    }

    get nextByte() {
        return (this.at + 7) >> 3;
    }

    /** The bits that are left of this byte. */
    rest() {
        return this.number((8 - (this.at & 7)) & 7);
    }
}

/** @returns {string} hexadecimal digits */
export function hex(bytes) {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function same(a, b) {
    return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

export function isText(bytes, text) {
    return same(bytes, [...text].map((letter) => letter.charCodeAt(0)));
}

export function concat(...parts) {
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
        all.set(part, at);
        at += part.length;
    }
    return all;
}

const CRC8 = Uint8Array.from({ length: 256 }, (_, value) => {
    for (let bit = 0; bit < 8; bit++) value = value & 0x80 ? (value << 1) ^ 0x2f : value << 1;
    return value;
});

/** CRC-8 of the parts joined: polynomial 0x2F, start 0. */
export function crc8(...parts) {
    let crc = 0;
    for (const part of parts) for (const byte of part) crc = CRC8[crc ^ byte];
    return crc;
}

/** BLAKE2b of the parts joined, `size` bytes long. */
export function checksum(size, ...parts) {
    const hash = blake2b.create({ dkLen: size });
    for (const part of parts) hash.update(part);
    return hash.digest();
}
