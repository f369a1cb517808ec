/**
 * Messages: how they enter the memory of the kernels, and whether they end as they must. FORMAT.md
 * 5.1 and 5.2.
 */

export const PIXELS = 784;
const LOWER_BOUND = 2 ** 23; // of a state
const LANE_WORDS = 3; // of the structure Lane: state, place of the next byte, end

/**
 * The start of a message behind its leading zero bytes, which change nothing. A reader need not
 * notice them, but they are the only way in which a message can be valid and longer than two bytes
 * for each of its symbols.
 */
export function withoutZeros(message) {
    const first = message.findIndex((byte) => byte > 0);
    return first < 0 ? message.subarray(message.length) : message.subarray(first);
}

/** Decodes the symbols of one message that come before its pixels (FORMAT.md 8.1). */
export class Decoder {
    constructor(message) {
        this.message = message;
        this.state = 0;
        this.at = 0;
    }

    /** One symbol. cdf: cumulative frequencies from 0 to 2**16. */
    decode(cdf) {
        while (this.state < LOWER_BOUND && this.at < this.message.length) {
            this.state = this.state * 256 + this.message[this.at++];
        }
        const slot = this.state & 0xffff;
        let symbol = 0;
        while (cdf[symbol + 1] <= slot) symbol++;
        // Below 2**32, so not for the bit operators, which are for 31 bits.
        this.state =
            (cdf[symbol + 1] - cdf[symbol]) * Math.floor(this.state / 65536) + slot - cdf[symbol];
        return symbol;
    }
}

/** The lanes of several messages in the memory of the kernels: their states, and their bytes. */
export class Lanes {
    #kernels;
    #count;

    /** decoders: one for each message, `at` and `state` saying where it is. */
    constructor(kernels, decoders) {
        this.#kernels = kernels;
        this.#count = decoders.length;
        const total = decoders.reduce((sum, { message }) => sum + message.length, 0);
        this.bytes = kernels.take(total);
        this.at = kernels.take(decoders.length * LANE_WORDS * 4);
        const words = kernels.i32.subarray(this.at / 4);
        let start = 0;
        decoders.forEach(({ message, at, state }, lane) => {
            kernels.u8.set(message, this.bytes + start);
            words.set([state | 0, start + at, start + message.length], lane * LANE_WORDS);
            start += message.length;
        });
    }

    /**
     * Shift in what bytes the rule allows; @returns {{state: number, left: number}[]} left: bytes
     */
    finish() {
        this.#kernels.call("refill", this.at, this.#count, this.bytes);
        const words = this.#kernels.i32.subarray(this.at / 4);
        return Array.from({ length: this.#count }, (_, lane) => {
            const [state, at, end] = words.subarray(lane * LANE_WORDS);
            return { state: state >>> 0, left: end - at };
        });
    }
}

/**
 * What is wrong with a message by its end, or null.
 * @param {{state: number, left: number}} end
 * @param {Uint8Array} pixels what it was decoded to
 */
export function faultOf({ state, left }, pixels) {
    if (left) return `${left} bytes of a message are left over`;
    const check = crc32(pixels) & 0xff;
    return state === check ? null : `the final state of a message is ${state}, not ${check}`;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    return crc;
});

/** CRC-32, as in zip and PNG. */
function crc32(bytes) {
    let crc = 0xffffffff;
    for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
    return ~crc >>> 0;
}

/**
 * Decode messages in batches: neighbours with the same number of images, the last of a batch
 * perhaps with fewer, as the kernels want them.
 * @param {Kernels} kernels
 * @param {Uint8Array[]} messages
 * @param {number[]} counts images of each message
 * @param {number} most images in a batch, unless one message alone has more
 * @param {(messages: Uint8Array[], batch: {group: number, images: number}, pixels: Uint8Array) =>
 *     (string | null)[]} decodeBatch fills in the pixels of a batch, and returns what is wrong with
 *     each message; what it takes of the kernels' memory is given back
 * @returns {{pixels: Uint8Array, errors: (string | null)[]}}
 */
export function inBatches(kernels, messages, counts, most, decodeBatch) {
    const total = counts.reduce((sum, count) => sum + count, 0);
    const pixels = new Uint8Array(total * PIXELS);
    const errors = [];
    let done = 0;
    for (let from = 0, to; from < counts.length; from = to) {
        const group = counts[from];
        let images = group;
        for (to = from + 1; to < counts.length; images += counts[to++]) {
            const full = counts[to - 1] !== group || images + counts[to] > most;
            if (full || counts[to] > group) break;
        }
        const some = pixels.subarray(done * PIXELS, (done + images) * PIXELS);
        const mark = kernels.mark();
        try {
            errors.push(...decodeBatch(messages.slice(from, to), { group, images }, some));
        } finally {
            kernels.release(mark);
        }
        done += images;
    }
    return { pixels, errors };
}
