/**
 * Layers in the memory of the kernels: the twin of codec/model/native_layers.py.
 *
 * A structure of C is an array of 32-bit words here, numbers and addresses, in the order of its
 * fields in codec/kernels. Weights are packed once; biases and multipliers once for each quality
 * that is used, or once if it changes nothing.
 */
import { MAX_MEMORY_BYTES } from "./kernels.js";
import { POSITIONS, badModel } from "./models_file.js";

const PAD = 16; // rows of numbers are a multiple of it long

/** n rounded up to a multiple of PAD. */
export function padded(n) {
    return Math.ceil(n / PAD) * PAD;
}

/** Makes structures, and remembers what they share. */
export class Packer {
    #kernels;
    #weights = new Map();
    #kept = new Map();

    constructor(kernels) {
        this.#kernels = kernels;
    }

    /** Keep a structure, given by its words; @returns its address. */
    structure(words) {
        return this.#kernels.keep(Int32Array.from(words));
    }

    /**
     * Keep a table (rows, width), its rows padded with zeros.
     * @param {new (n: number) => ArrayLike} Type what the kernel reads: Int16Array, Int32Array,
     *     Float32Array
     * @param {(i: number) => number} [place] where number i of a row goes
     */
    table(values, width, Type, size = padded(width), place = (i) => i) {
        const rows = width ? values.length / width : 0;
        checkSize(rows * size * Type.BYTES_PER_ELEMENT);
        const out = new Type(rows * size);
        for (let r = 0; r < rows; r++) {
            for (let i = 0; i < width; i++) out[r * size + place(i)] = values[r * width + i];
        }
        return this.#kernels.keep(out);
    }

    /** As `table`, kept once for each key. */
    #once(key, make) {
        if (!this.#kept.has(key)) this.#kept.set(key, make());
        return this.#kept.get(key);
    }

    /**
     * The words of the structure Layer, results clipped to low..high. Several layers with the same
     * inputs, one below the other, are one: parts are [layer, low, high].
     * @param {{columns?: {size, place}, places?: {size, place}}} [moved] how many inputs (outputs)
     *     a row has, and where each lies in it
     * @returns {number[]}
     */
    layer(parts, quality, { columns, places } = {}) {
        const [first] = parts[0];
        const outputs = parts.reduce((sum, [layer]) => sum + layer.outputs, 0);
        const size = padded(places?.size ?? outputs);
        const place = places?.place;
        const names = parts.map(([layer]) => layer.name).join();
        const by = parts.some(([layer]) => layer.byQuality) ? quality : "all";
        const byPosition = parts.some(([layer]) => layer.byPosition);
        const limits = [1, 2].map((which) => {
            const each = parts.flatMap((part) => Array(part[0].outputs).fill(part[which]));
            const key = `${names} ${which}`;
            return this.#once(key, () => this.table(each, outputs, Int32Array, size, place));
        });
        const [bias, multiplier] = this.#once(`${names} at ${by}`, () => {
            const found = joined(
                parts.map(([layer]) => layer),
                outputs,
                byPosition,
                quality,
            );
            return [
                this.table(found.bias, outputs, Int32Array, size, place),
                this.table(found.multiplier, outputs, Float32Array, size, place),
            ];
        });
        const weight = this.#weight(
            names,
            parts.map(([layer]) => layer),
            columns,
            places,
        );
        const inputs = columns?.size ?? first.inputs;
        return [
            inputs,
            size,
            first.taps,
            byPosition ? size : 0,
            weight,
            bias,
            multiplier,
            ...limits,
        ];
    }

    /** The address of a weight as the kernel `pack` orders it. */
    #weight(names, layers, columns, places) {
        if (this.#weights.has(names)) return this.#weights.get(names);
        const kernels = this.#kernels;
        const { taps, inputs: from } = layers[0];
        const inputs = columns?.size ?? from;
        const outputs = places?.size ?? layers.reduce((sum, layer) => sum + layer.outputs, 0);
        const bytes = taps * Math.ceil(inputs / 2) * padded(outputs) * 4;
        checkSize(bytes);
        checkSize(outputs * inputs * taps * 2);
        const packed = kernels.take(bytes);
        const mark = kernels.mark();
        const source = kernels.take(outputs * inputs * taps * 2);
        const to = kernels.i16.subarray(source / 2, source / 2 + outputs * inputs * taps).fill(0);
        let o = 0;
        for (const layer of layers) {
            for (let at = 0; at < layer.weight.length; o++) {
                const row = (places ? places.place(o) : o) * inputs;
                for (let k = 0; k < from; k++) {
                    const column = columns ? columns.place(k) : k;
                    for (let tap = 0; tap < taps; tap++)
                        to[(row + column) * taps + tap] = layer.weight[at++];
                }
            }
        }
        kernels.call("pack", source, outputs, inputs, taps, packed);
        kernels.release(mark);
        this.#weights.set(names, packed);
        return packed;
    }
}

/** Biases (1 or 49, outputs) and multipliers of several layers, one beside the other. */
function joined(layers, outputs, byPosition, quality) {
    const positions = byPosition ? POSITIONS : 1;
    const bias = new Int32Array(positions * outputs);
    const multiplier = new Float32Array(outputs);
    let o = 0;
    for (const layer of layers) {
        const found = layer.at(quality);
        for (let p = 0; p < positions; p++) {
            const row = layer.byPosition ? p * layer.outputs : 0;
            bias.set(found.bias.subarray(row, row + layer.outputs), p * outputs + o);
        }
        multiplier.set(found.multiplier, o);
        o += layer.outputs;
    }
    return { bias, multiplier };
}

function checkSize(bytes) {
    if (bytes > MAX_MEMORY_BYTES) throw badModel("the model needs more memory than there is");
}
