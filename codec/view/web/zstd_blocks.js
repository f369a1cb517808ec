/**
 * How much a compressed block of zstd gives, found without copying: RFC 8878 3.1.1.3 and 4.1.
 *
 * fzstd trusts what it reads: a hostile block of ten bytes makes it write for hours beyond its
 * output, or read numbers without end. So each block is walked first. The walk rejects what the RFC
 * forbids, and ends: each step uses up bits of the block, or room in its content.
 */
export const MAX_CONTENT = 1 << 17; // bytes of a block
const MAX_WEIGHTS = 255; // of a Huffman table
const LITERALS = 0, OFFSETS = 1, MATCHES = 2; // kinds of codes
const MAX_LOG = [9, 8, 9], MAX_CODE = [35, 31, 52];

const each = (bits) => bits.flatMap(([count, width]) => new Array(count).fill(width));
const single = (from) => Array.from({ length: 17 - from }, (_, k) => [1, from + k]);
// The bits that follow the code of a length, and the least length of each code.
const LITERAL_BITS = each([[16, 0], [4, 1], [2, 2], [2, 3], [1, 4], ...single(6)]);
const MATCH_BITS = each([[32, 0], [4, 1], [2, 2], [2, 3], [2, 4], [1, 5], ...single(7)]);
const least = (bits, first) =>
    bits.map((_, k) => bits.slice(0, k).reduce((sum, width) => sum + 2 ** width, first));
const LEAST_LITERAL = least(LITERAL_BITS, 0), LEAST_MATCH = least(MATCH_BITS, 3);

// The tables that a block need not send.
const USUAL = [
    [81, 16, 99, 140, 49, 198, 24, 99, 12, 33, 196, 24, 99, 102, 102, 134, 70, 146, 4],
    [32, 132, 16, 66, 102, 70, 68, 68, 68, 68, 36, 73, 2],
    [33, 20, 196, 24, 99, 140, 33, 132, 16, 66, 8, 33, 132, 16, 66, 8, 33,
        68, 68, 68, 68, 68, 68, 68, 68, 36, 9],
].map((bytes, kind) => tableOf(Uint8Array.from(bytes), 0, Infinity, 6, MAX_CODE[kind]).table);

export class BlockWalk {
    #tables = [null, null, null]; // the last ones, by kind
    #recent = [1, 4, 8]; // offsets
    #hasHuffman = false;

    /**
     * @param {Uint8Array} block its content, without its header
     * @param {number} before bytes that the frame has given so far
     * @param {number} most bytes that it may give
     * @returns {number} bytes that it gives. @throws {Error} if it is damaged
     */
    size(block, before, most) {
        const { count, at } = this.#literals(block);
        if (count > most) throw new Error("a block gives too much");
        return count + this.#sequences(block, at, count, before, most - count);
    }

    /** How many literals there are, and where they end. */
    #literals(block) {
        const kind = block[0] & 3, form = (block[0] >> 2) & 3;
        const isPacked = kind > 1;
        const bytes = isPacked ? [3, 3, 4, 5][form] : [1, 2, 1, 3][form];
        if (bytes > block.length) throw new Error("a block is cut off");
        let fields = 0;
        for (let i = 0; i < bytes; i++) fields += block[i] * 256 ** i;
        const width = isPacked ? [10, 10, 14, 18][form] : 20;
        fields = Math.floor(fields / (isPacked || form & 1 ? 16 : 8));
        const count = fields % 2 ** width;
        const size = isPacked ? Math.floor(fields / 2 ** width) : kind ? 1 : count;
        const at = bytes + size;
        if (at > block.length) throw new Error("the literals are cut off");
        if (kind === 2) checkWeights(block, bytes, at);
        else if (kind === 3 && !this.#hasHuffman) throw new Error("a Huffman table is missing");
        this.#hasHuffman ||= kind === 2;
        return { count, at };
    }

    /** How many bytes the copies of the sequences at `at` give. */
    #sequences(block, at, literals, before, most) {
        let count = block[at++];
        if (count === 255) count = block[at++] + block[at++] * 256 + 0x7f00;
        else if (count > 127) count = (count - 128) * 256 + block[at++];
        if (count === 0 && at === block.length) return 0;
        const modes = block[at++];
        if (!count || at > block.length || modes & 3) throw new Error("the sequences are damaged");
        for (const kind of [LITERALS, OFFSETS, MATCHES]) {
            at = this.#take(block, at, kind, (modes >> (6 - 2 * kind)) & 3);
        }
        return this.#walk(new BackwardBits(block, at), count, literals, before, most);
    }

    /** Take the table of one kind of codes. @returns {number} where it ends */
    #take(block, at, kind, mode) {
        let table = [USUAL[kind], null, null, this.#tables[kind]][mode];
        if (mode === 1) {
            table = { log: 0, codes: [block[at]], bits: [0], next: [0] };
            if (!(block[at++] <= MAX_CODE[kind])) throw new Error("a code is unknown");
        } else if (mode === 2) {
            ({ table, at } = tableOf(block, at, block.length, MAX_LOG[kind], MAX_CODE[kind]));
        } else if (!table) throw new Error("a table is missing");
        this.#tables[kind] = table;
        return at;
    }

    #walk(bits, count, literals, before, most) {
        const [literal, offset, match] = this.#tables;
        const states = this.#tables.map(({ log }) => bits.read(log));
        const next = (kind) => {
            const { bits: widths, next: to } = this.#tables[kind];
            states[kind] = to[states[kind]] + bits.read(widths[states[kind]]);
        };
        let used = 0, copied = 0;
        for (let left = count; left > 0; left--) {
            const o = offset.codes[states[OFFSETS]];
            const stated = 2 ** o + bits.read(o);
            const m = match.codes[states[MATCHES]];
            const length = LEAST_MATCH[m] + bits.read(MATCH_BITS[m]);
            const l = literal.codes[states[LITERALS]];
            const run = LEAST_LITERAL[l] + bits.read(LITERAL_BITS[l]);
            used += run;
            const from = this.#offset(stated, run === 0);
            if (used > literals || from < 1 || from > before + used + copied) {
                throw new Error("a sequence reads what is not there");
            }
            copied += length;
            if (copied > most) throw new Error("a block gives too much");
            if (left > 1) [LITERALS, MATCHES, OFFSETS].forEach(next);
        }
        if (bits.left !== 0) throw new Error("the sequences end elsewhere");
        return copied;
    }

    /** How far back a sequence copies from: RFC 8878 3.1.1.5. */
    #offset(stated, noLiterals) {
        const recent = this.#recent;
        const place = stated > 3 ? 3 : stated - 1 + noLiterals;
        const found = stated > 3 ? stated - 3 : place === 3 ? recent[0] - 1 : recent[place];
        if (place > 1) recent[2] = recent[1];
        if (place > 0) recent[1] = recent[0];
        recent[0] = found;
        return found;
    }
}

/** Check that the weights of a Huffman table, if they are packed, come to an end. */
function checkWeights(block, at, end) {
    const size = block[at++];
    if (!(size < 128)) return;
    if (at + size > end) throw new Error("a Huffman table is cut off");
    const { table, at: start } = tableOf(block, at, at + size, 6, MAX_WEIGHTS);
    const bits = new BackwardBits(block.subarray(0, at + size), start);
    const states = [bits.read(table.log), bits.read(table.log)];
    for (let count = 2; count <= MAX_WEIGHTS; count++) {
        const width = table.bits[states[count & 1]];
        if (width > bits.left) return;
        states[count & 1] = table.next[states[count & 1]] + bits.read(width);
    }
    throw new Error("a Huffman table has too many weights");
}

/** A table of finite state entropy, and where its description ends. RFC 8878 4.1.1. */
function tableOf(bytes, start, end, maxLog, maxCode) {
    let at = start * 8;
    const peek = (width) => {
        const byte = at >> 3;
        const word = bytes[byte] | (bytes[byte + 1] << 8) | (bytes[byte + 2] << 16);
        return (word >> (at & 7)) & ((1 << width) - 1);
    };
    const log = peek(4) + 5;
    at += 4;
    if (log > maxLog) throw new Error("a table is too large");
    const shares = [];
    for (let left = 1 << log; left > 0;) {
        const width = 32 - Math.clz32(left + 1);
        const spare = (1 << width) - 2 - left; // so many values need a bit less
        let value = peek(width);
        const low = value & ((1 << (width - 1)) - 1);
        const isShort = low < spare;
        if (isShort) value = low;
        else if (value >> (width - 1)) value -= spare;
        at += isShort ? width - 1 : width;
        shares.push(value - 1); // -1: less than one state
        left -= Math.abs(value - 1);
        for (let more = value === 1 ? 3 : 0; more === 3;) {
            more = peek(2);
            at += 2;
            shares.push(...new Array(more).fill(0));
        }
        if (shares.length > maxCode + 1 || at > end * 8) throw new Error("a table is damaged");
    }
    return { table: spread(shares, log), at: (at + 7) >> 3 };
}

/** Shares of the states -> code, number of bits and base of the next state, of each state. */
function spread(shares, log) {
    const size = 1 << log;
    const codes = new Uint8Array(size), bits = new Uint8Array(size), next = new Uint16Array(size);
    let high = size, at = 0;
    shares.forEach((share, code) => { if (share < 0) codes[--high] = code; });
    shares.forEach((share, code) => {
        for (let i = 0; i < share; i++) {
            codes[at] = code;
            do at = (at + (size >> 1) + (size >> 3) + 3) & (size - 1); while (at >= high);
        }
    });
    const seen = shares.map(Math.abs);
    codes.forEach((code, state) => {
        const number = seen[code]++;
        bits[state] = log - 31 + Math.clz32(number);
        next[state] = (number << bits[state]) - size;
    });
    return { log, codes, bits, next };
}

/** The bits from `start` on, read from the last one, which is before the highest 1, backwards. */
class BackwardBits {
    constructor(bytes, start) {
        const last = bytes[bytes.length - 1];
        if (start >= bytes.length || !last) throw new Error("a list of bits has no end");
        this.bytes = bytes;
        this.start = start * 8;
        this.at = bytes.length * 8 - 1 - Math.clz32(last << 24);
    }

    get left() {
        return this.at - this.start;
    }

    /** At most 31 bits. */
    read(width) {
        this.at -= width;
        if (this.at < this.start) throw new Error("a list of bits is cut off");
        let value = 0;
        for (let k = (this.at + width - 1) >> 3; k >= this.at >> 3; k--) {
            value = value * 256 + this.bytes[k];
        }
        return Math.floor(value / 2 ** (this.at & 7)) % 2 ** width;
    }
}
