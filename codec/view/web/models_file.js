/**
 * Model files: safetensors of integers with a card, and the layers in them. FORMAT.md 6.3 and 7.
 *
 * The twin of codec/model/{bundle,layers}.py. A file can come from anybody, so every check of the
 * Python reader is made, in the same order: type, shape, range, and that no sum reaches 2**24. The
 * kernels rely on them.
 */

export const MAX_MODEL_BYTES = 1 << 24;
export const POSITIONS = 49;
export const ROWS = 34; // of tables by quality: for quality 0, 3, ... 99
export const ACTIVATION_MAX = 1023;
const EXACT_LIMIT = 1 << 24;
const MULTIPLIER_BITS = 24;

const ARRAYS = { I8: Int8Array, I16: Int16Array, I32: Int32Array };
// The types that a tensor can have, by the last part of its name; all others are I32.
const TYPES = new Map([
    ["weight", ["I8", "I16"]],
    ["table", ["I16"]],
]);

/** @returns {Error} of kind "BadModel" */
export function badModel(reason) {
    return Object.assign(new Error(reason), { kind: "BadModel" });
}

/** The largest and the smallest number of an array, [least, most]; [0, 0] of none. */
export function range(values) {
    let least = values.length ? values[0] : 0;
    let most = least;
    for (const value of values) {
        if (value < least) least = value;
        if (value > most) most = value;
    }
    return [least, most];
}

/** Throw BadModel unless all numbers lie in low..high. */
export function checkRange(name, values, low, high) {
    const [least, most] = range(values);
    if (least < low || most > high) throw badModel(`${name} leaves ${low}..${high}`);
}

/**
 * Take a model file apart.
 * @param {Uint8Array} stream
 * @returns {{architecture: string, card: object, bundle: Bundle}}
 * @throws {Error} of kind "BadModel"
 */
export function unpackModel(stream) {
    if (stream.length > MAX_MODEL_BYTES)
        throw badModel(`a model has ${stream.length} bytes, too many`);
    let header, metadata, card;
    const start = headerEnd(stream);
    try {
        header = JSON.parse(
            new TextDecoder("utf-8", { fatal: true }).decode(stream.subarray(8, start)),
        );
        metadata = header.__metadata__;
        card = JSON.parse(metadata.card);
    } catch (error) {
        throw badModel(`not a model file: ${error.message}`);
    }
    const texts = Object.values(metadata).every((value) => typeof value === "string");
    if (!texts || !("architecture" in metadata))
        throw badModel("not a model file: its metadata are not texts");
    if (typeof card?.name !== "string" || Array.isArray(card))
        throw badModel("the model's name is not a text");
    return {
        architecture: metadata.architecture,
        card,
        bundle: new Bundle(tensorsOf(stream, header, start)),
    };
}

/** Where the JSON text ends, and the tensors begin. */
function headerEnd(stream) {
    if (stream.length < 8) throw badModel("not a model file: it is too short");
    const view = new DataView(stream.buffer, stream.byteOffset, 8);
    const size = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
    if (size > stream.length - 8) throw badModel("not a model file: its header is cut off");
    if (stream[8] !== 0x7b) throw badModel("not a model file: its header does not start with {");
    return 8 + size;
}

/** The tensors by name; they must fill the file without gaps or overlaps. */
function tensorsOf(stream, header, start) {
    const tensors = new Map();
    const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
    for (const [name, entry] of entries) {
        const types = TYPES.get(name.slice(name.lastIndexOf(".") + 1)) ?? ["I32"];
        const { dtype, shape, data_offsets: offsets } = entry ?? {};
        if (!areSizes(shape) || !areSizes(offsets) || offsets.length !== 2) {
            throw badModel(`not a model file: the entry of ${name} is malformed`);
        }
        if (!types.includes(dtype))
            throw badModel(`tensor ${name} is ${dtype}, wanted ${types.join(" or ")}`);
    }
    entries.sort(
        ([, a], [, b]) =>
            a.data_offsets[0] - b.data_offsets[0] || a.data_offsets[1] - b.data_offsets[1],
    );
    let at = 0;
    for (const [name, { dtype, shape, data_offsets: offsets }] of entries) {
        const size = shape.reduce((product, length) => product * length, 1);
        const bytes = size * ARRAYS[dtype].BYTES_PER_ELEMENT;
        if (offsets[0] !== at || offsets[1] !== at + bytes || start + at + bytes > stream.length) {
            throw badModel(`not a model file: ${name} does not lie where it should`);
        }
        // A copy, as a typed array must start at a multiple of its number's size. Little-endian, as
        // all browsers are.
        const data = new ARRAYS[dtype](stream.slice(start + at, start + at + bytes).buffer);
        tensors.set(name, { shape, data });
        at += bytes;
    }
    if (start + at !== stream.length) throw badModel("not a model file: bytes are left over");
    return tensors;
}

function areSizes(numbers) {
    return (
        Array.isArray(numbers) && numbers.every((each) => Number.isSafeInteger(each) && each >= 0)
    );
}

/** The tensors of a file, each of which must be taken exactly once. */
export class Bundle {
    #tensors;
    #below = new Map(); // what follows each beginning of names

    constructor(tensors) {
        this.#tensors = tensors;
        for (const name of tensors.keys()) {
            const [first, second, third] = name.split(".", 3);
            this.#follows(first, second);
            this.#follows(`${first}.${second}`, third);
        }
        /** Products of one image, in all layers that were taken so far. */
        this.multiplyAdds = 0;
    }

    #follows(prefix, part) {
        if (part === undefined) return;
        if (!this.#below.has(prefix)) this.#below.set(prefix, new Set());
        this.#below.get(prefix).add(part);
    }

    /**
     * The tensor of a name.
     * @param {(number | null)[]} [shape] its shape; null: any length but 0
     * @returns {{shape: number[], data: Int8Array | Int16Array | Int32Array}}
     */
    pop(name, shape = null) {
        const tensor = this.#tensors.get(name);
        if (!tensor) throw badModel(`tensor ${name} is missing`);
        this.#tensors.delete(name);
        if (shape && !fits(tensor.shape, shape)) {
            throw badModel(
                `${name} has shape (${tensor.shape}), wanted (${shape.map((n) => n ?? "any")})`,
            );
        }
        return tensor;
    }

    /** How many layers, or groups of layers, have names below `prefix` (1 or 2 parts of a name). */
    count(prefix) {
        return this.#below.get(prefix)?.size ?? 0;
    }

    /** The layer of a name, made of its four tensors. kind: see Layer. */
    layer(name, kind, inputMax = ACTIVATION_MAX) {
        const [weight, bias, shift, multiplier] = ["weight", "bias", "shift", "multiplier"].map(
            (part) => this.pop(`${name}.${part}`),
        );
        const layer = new Layer(name, kind, weight, bias, shift, multiplier, inputMax);
        this.multiplyAdds += weight.data.length * (kind === "dense" ? 1 : POSITIONS);
        return layer;
    }

    /** Throw BadModel if a tensor is left. */
    finish() {
        const left = [...this.#tensors.keys()].sort();
        if (left.length) throw badModel(`unknown tensor ${left[0]}`);
    }
}

function fits(shape, wanted) {
    return (
        shape.length === wanted.length &&
        shape.every((n, i) => (wanted[i] === null ? n > 0 : n === wanted[i]))
    );
}

/**
 * round((weight * x + bias) * multiplier), FORMAT.md 6.3. kind: "dense", "point" or "conv"; |x| <=
 * inputMax.
 *
 * weight: (O, K), conv: (O, K, 3, 3); bias: (O) or, not dense, (O, 49); shift, multiplier: (1, O)
 * or (ROWS, O).
 */
export class Layer {
    #bias;
    #shift;
    #multiplier;

    constructor(name, kind, weight, bias, shift, multiplier, inputMax) {
        const outputs = weight.shape[0];
        const kernel = kind === "conv" ? [3, 3] : [];
        const rows = shift.shape[0];
        const right =
            fits(weight.shape, [null, null, ...kernel]) &&
            (fits(bias.shape, [outputs]) ||
                (kind !== "dense" && fits(bias.shape, [outputs, POSITIONS]))) &&
            (rows === 1 || rows === ROWS) &&
            fits(shift.shape, [rows, outputs]) &&
            fits(multiplier.shape, [rows, outputs]);
        if (!right)
            throw badModel(`${name}: the shapes of its tensors do not make a ${kind} layer`);
        checkRange(`${name}.multiplier`, multiplier.data, 1, 2 ** MULTIPLIER_BITS);
        this.name = name;
        this.outputs = outputs;
        this.inputs = weight.shape[1];
        this.taps = kind === "conv" ? 9 : 1;
        this.weight = weight.data;
        /** Whether the quality changes anything. */
        this.byQuality = rows > 1;
        this.byPosition = bias.shape.length === 2;
        this.#bias = bias.data;
        this.#shift = shift;
        this.#multiplier = multiplier;
        this.#checkReach(inputMax);
    }

    /** Throw BadModel if a partial sum could reach 2**24. In float64: exact, or far beyond. */
    #checkReach(inputMax) {
        const each = this.weight.length / this.outputs;
        const positions = this.byPosition ? POSITIONS : 1;
        for (let o = 0; o < this.outputs; o++) {
            let weights = 0;
            let bias = 0;
            let shift = 0;
            for (let i = o * each; i < (o + 1) * each; i++) weights += Math.abs(this.weight[i]);
            for (let i = o * positions; i < (o + 1) * positions; i++)
                bias = Math.max(bias, Math.abs(this.#bias[i]));
            for (let i = o; i < this.#shift.data.length; i += this.outputs) {
                shift = Math.max(shift, Math.abs(this.#shift.data[i]));
            }
            const reach = weights * inputMax + bias + shift;
            if (reach >= EXACT_LIMIT)
                throw badModel(`${this.name}: a sum could reach ${reach}, at least 2**24`);
        }
    }

    /** Throw BadModel unless it takes `inputs` numbers and gives `outputs`. */
    check(inputs, outputs = this.outputs) {
        if (this.inputs !== inputs || this.outputs !== outputs) {
            const found = `takes ${this.inputs} numbers and gives ${this.outputs}`;
            throw badModel(`${this.name} ${found}, wanted ${inputs} and ${outputs}`);
        }
    }

    /**
     * @returns {{bias: Int32Array, multiplier: Float32Array}} at a quality: (1 or 49 positions,
     * outputs), (outputs)
     */
    at(quality) {
        const shift = interpolate(this.#shift, quality);
        const positions = this.byPosition ? POSITIONS : 1;
        const bias = new Int32Array(positions * this.outputs);
        for (let o = 0; o < this.outputs; o++) {
            for (let p = 0; p < positions; p++) {
                bias[p * this.outputs + o] = this.#bias[o * positions + p] + shift[o];
            }
        }
        const multiplier = Float32Array.from(
            interpolate(this.#multiplier, quality),
            (m) => m * 2 ** -MULTIPLIER_BITS,
        );
        return { bias, multiplier };
    }
}

/**
 * The row of a table (1 or ROWS, K) at a quality, FORMAT.md 6.2.
 * @returns {Float64Array} whole numbers (K)
 */
export function interpolate({ shape, data }, quality) {
    const [rows, size] = shape;
    if (rows === 1) return Float64Array.from(data);
    const row = Math.floor(quality / 3);
    const rest = quality % 3;
    const above = Math.min(row + 1, ROWS - 1);
    return Float64Array.from({ length: size }, (_, k) => {
        const thirds = data[row * size + k] * (3 - rest) + data[above * size + k] * rest;
        return Math.floor((2 * thirds + 3) / 6);
    });
}
