/**
 * Where models come from: the caller, or the stream itself. codec/collection/models.py.
 */
import { AezError, hex, isMemory, plain, sha256 } from "./bytes.js";
import { loadKernels } from "./kernels.js";
import { loadModel } from "./models.js";
import { unzstd } from "./zstd.js";

/** FORMAT.md 7.1: Model_ID -> name and Model_Hash of the shipped models. */
export const MODEL_IDS = {
    1: { name: "mnist", hash: "1940d17a82af6b24" },
    2: { name: "fashion", hash: "2fabebbc125b511c" },
    3: { name: "mnist-lossless", hash: "15d5d40193bf7674" },
    4: { name: "fashion-lossless", hash: "e4cffbb1f98c6038" },
    5: { name: "generic", hash: "75a966aef2d7a19a" },
    6: { name: "generic-lossless", hash: "564723ba0a3b9eaf" },
};
const NAMES = new Map(Object.values(MODEL_IDS).map(({ name, hash }) => [hash, name]));

/** The bytes of a stored image -> its 784 pixels. FORMAT.md 2.3. @throws {AezError} */
export function unstored(bytes) {
    if (bytes.length === 784) return bytes;
    if (bytes.length > 784) {
        const found = `a stored image has ${bytes.length} bytes, at most 784 are allowed`;
        throw new AezError("CorruptPayload", found);
    }
    try {
        return unzstd(bytes, {
            most: 784, least: 784, what: "the pixels", offset: null, alone: true,
        });
    } catch (error) {
        throw new AezError("CorruptPayload", `a stored image is damaged: ${error.message}`);
    }
}

/** Model_Hash of a model file, and its SHA-256. */
function hashed(file) {
    const digest = sha256(file);
    return { hash: hex(digest.subarray(0, 8)), digest };
}

/** The models of one stream, each loaded once. */
export class ModelFiles {
    #given = new Map(); // by hash: file, null once it is loaded; its SHA-256
    #ask = null;
    #embedded = () => []; // what finds the files in the stream
    #found = null; // them, by hash; or the error of finding them
    #loading = new Map(); // by hash: a promise of the model
    #loaded = new Map(); // by hash: what the promise gave
    #kernels = null;
    #wasm;

    /** models: files, or a function that fetches one; wasm: kernels.wasm. See `open`. */
    constructor(models, wasm) {
        this.#wasm = wasm;
        if (typeof models === "function") this.#ask = models;
        else for (const file of models ?? []) this.add(file);
    }

    /** Take a model file. @returns {string} its hash */
    add(file) {
        const hash = this.#keep(file);
        this.#loading.delete(hash); // it may have been missing
        return hash;
    }

    #keep(file) {
        const { hash, digest } = hashed(file);
        if (!this.#given.has(hash)) this.#given.set(hash, { file: plain(file), digest });
        return hash;
    }

    /** Take the files that the stream carries: find returns them, or throws an AezError. */
    embed(find) {
        this.#embedded = find;
    }

    isEmbedded(hash) {
        const found = this.#carried();
        return found instanceof Map && found.has(hash);
    }

    /** The embedded models by hash, the first of each; or what is wrong with the field. */
    #carried() {
        if (this.#found) return this.#found;
        this.#found = new Map();
        try {
            for (const file of this.#embedded()) {
                const { hash, digest } = hashed(file);
                if (!this.#found.has(hash)) this.#found.set(hash, { file, digest });
            }
        } catch (error) {
            if (!(error instanceof AezError)) throw error;
            this.#found = error;
        }
        return this.#found;
    }

    has(hash) {
        return this.#given.has(hash);
    }

    /** Its name, as far as it is known without loading it; or null. */
    nameOf(hash) {
        return NAMES.get(hash) ?? null;
    }

    /**
     * @param {string} hash
     * @returns {Promise<{model: Model, digest: Uint8Array}>}
     * @throws {AezError} ModelNotFound, BadModel
     */
    async get(hash) {
        if (this.#loaded.has(hash)) return this.#loaded.get(hash);
        if (!this.#loading.has(hash)) this.#loading.set(hash, this.#load(hash));
        return this.#loading.get(hash);
    }

    async #load(hash) {
        const { file, digest } = await this.#find(hash);
        if (!this.#wasm) throw new TypeError("decoding needs kernels.wasm: give `open` { wasm }");
        let kernels, mark;
        try {
            kernels = await (this.#kernels ??= loadKernels(this.#wasm));
            if (this.#loaded.has(hash)) return this.#loaded.get(hash); // meanwhile
            mark = kernels.mark();
            const model = loadModel(file, kernels, { sha256: () => digest, unstored });
            this.#loaded.set(hash, { model, digest });
            if (this.#given.has(hash)) this.#given.set(hash, { file: null, digest });
            return this.#loaded.get(hash);
        } catch (error) {
            if (mark !== undefined) kernels.release(mark); // nothing stays of half a model
            if (isMemory(error)) { // there may be more another time
                this.#loading.delete(hash);
                if (!kernels) this.#kernels = null;
            }
            if (error.kind === "BadModel") throw new AezError("BadModel", error.message);
            throw error;
        }
    }

    async #find(hash) {
        if (!this.#given.has(hash) && this.isEmbedded(hash)) return this.#carried().get(hash);
        if (!this.#given.has(hash) && this.#ask) {
            const file = await this.#ask(hash, this.nameOf(hash));
            if (file && this.#keep(file) !== hash) {
                throw new AezError("ModelNotFound", `another model came for ${hash}`, null, hash);
            }
        }
        const found = this.#given.get(hash);
        if (!found) {
            if (this.#carried() instanceof AezError) throw this.#carried();
            const name = this.nameOf(hash);
            const what = name ? `${name} (${hash})` : hash;
            const message = `model ${what} is not here: give its file`;
            throw new AezError("ModelNotFound", message, null, hash);
        }
        return found;
    }
}
