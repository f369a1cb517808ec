/**
 * Model files, and the messages that they decode: the reader's half of codec/model. FORMAT.md 5-8.
 *
 *     const model = loadModel(bytes, await loadKernels(wasm), { sha256, unstored });
 *     const { pixels, errors } = model.decode(quality, messages, counts);
 *
 * A file of either architecture is checked whole before anything of it reaches the kernels:
 * models_file.js (types, shapes, bounds of sums), models_ladder.js and models_pixels.js (what fits
 * together, ranges).
 */
import { Ladder } from "./models_ladder.js";
import { Pixels } from "./models_pixels.js";
import { badModel, unpackModel } from "./models_file.js";

const MAX_GROUP_IMAGES = 16;

/**
 * @param {Uint8Array} bytes a model file
 * @param {Kernels} kernels of loadKernels
 * @param {{sha256: (bytes: Uint8Array) => Uint8Array, unstored: (bytes: Uint8Array) => Uint8Array}}
 *     tools unstored: the bytes of a stored image -> its 784 pixels (FORMAT.md 2.3); throws if they
 *     are damaged
 * @returns {Model}
 * @throws {Error} whose `kind` is "BadModel": the message is the reason
 */
export function loadModel(bytes, kernels, { sha256, unstored }) {
    const { architecture, card, bundle } = unpackModel(bytes);
    const hash = Array.from(sha256(bytes).subarray(0, 8), (byte) =>
        byte.toString(16).padStart(2, "0"),
    ).join("");
    return new Model(hash, card, coderOf(architecture, bundle, kernels, unstored));
}

function coderOf(architecture, bundle, kernels, unstored) {
    if (architecture === "ladder-1") return new Ladder(bundle, kernels);
    if (architecture === "pixels-3") return new Pixels(bundle, kernels, unstored);
    throw badModel(`architecture ${JSON.stringify(architecture)}, wanted "ladder-1" or "pixels-3"`);
}

/**
 * A model. hash: Model_Hash, 16 hexadecimal digits; card: as in the file, unchecked but for its
 * name; lossless: whether it keeps every pixel; multiplyAdds: of one image (of a lossless model: of
 * one pixel), in all layers.
 */
export class Model {
    #coder;

    constructor(hash, card, coder) {
        this.hash = hash;
        this.card = card;
        this.name = card.name;
        this.lossless = coder.lossless;
        this.multiplyAdds = coder.multiplyAdds;
        this.#coder = coder;
    }

    /**
     * Decode messages, each of a group of 1 to 16 images. Damaged ones take no longer, and their
     * images are 0.
     * @param {number} quality 0..99 of a lossy model; 100, or 128 + 1..64, of a lossless one
     * @param {Uint8Array[]} messages
     * @param {number[]} counts images of each
     * @returns {{pixels: Uint8Array, errors: (string | null)[]}} 784 bytes for each image, in
     *     order; what is wrong with each message
     * @throws {RangeError} if the model has no such quality, or a count is none
     * @throws {AezError} "OutOfMemory"
     */
    decode(quality, messages, counts) {
        this.#coder.checkQuality(quality);
        const right = counts.every(
            (count) => Number.isInteger(count) && count >= 1 && count <= MAX_GROUP_IMAGES,
        );
        if (!right || counts.length !== messages.length)
            throw new RangeError("a message has 1 to 16 images");
        const { pixels, errors } = this.#coder.decode(quality, messages, counts);
        let at = 0;
        counts.forEach((count, k) => {
            if (errors[k] !== null) pixels.fill(0, at, at + count * 784);
            at += count * 784;
        });
        return { pixels, errors };
    }
}
