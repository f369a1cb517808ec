/**
 * The native kernels (codec/kernels) as WebAssembly: kernels.wasm, its memory, and how numbers get
 * there.
 *
 * READ ME FIRST
 * - The module imports nothing and can reach nothing but its own memory. Inside that memory it
 *   trusts its arguments: whoever calls it checks sizes and ranges first (models.js and its parts).
 * - The memory is a stack. `keep` puts there what stays, a model's weights. Between `mark` and
 *   `release` lies what one call needs.
 * - When the memory grows, all views of it become empty. So views (`i32`, `u8`, ...) are asked for
 *   anew after each allocation, and never kept.
 */

import { noMemory } from "./bytes.js";

/** Most bytes of memory, as in wasm/kernels.c. Addresses below it are positive int32. */
export const MAX_MEMORY_BYTES = 1 << 30;

// A module with one function, i32x4.splat(0): valid only where there is SIMD.
const SIMD = [
    [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00], // magic, version
    [0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b], // types: () -> v128
    [0x03, 0x02, 0x01, 0x00], // functions: one of that type
    [0x0a, 0x08, 0x01, 0x06, 0x00, 0x41, 0x00, 0xfd, 0x11, 0x0b], // code
].flat();

/**
 * Why the kernels cannot run here: a sentence for people, or null if they can.
 * @returns {string | null}
 */
export function supported() {
    if (typeof WebAssembly !== "object") {
        return "This browser has no WebAssembly, which is needed to decode images.";
    }
    if (!WebAssembly.validate(new Uint8Array(SIMD))) {
        return (
            "This browser's WebAssembly has no SIMD, which is needed to decode images; " +
            "browsers since 2023 have it."
        );
    }
    return null;
}

/**
 * Load kernels.wasm.
 * @param {Uint8Array | ArrayBuffer | WebAssembly.Module} wasm its bytes, or the module compiled
 *     before
 * @returns {Promise<Kernels>}
 * @throws {Error} with a sentence where WebAssembly, its SIMD or memory is missing
 */
export async function loadKernels(wasm) {
    const reason = supported();
    if (reason) throw new Error(reason);
    const module = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
    try {
        return new Kernels((await WebAssembly.instantiate(module, {})).exports);
    } catch (error) {
        throw error instanceof RangeError ? noMemory() : error; // it imports nothing
    }
}

/** The functions, as `call`, and their memory. */
export class Kernels {
    #functions;
    #views = null;

    constructor(functions) {
        this.#functions = functions;
    }

    /**
     * Call a function of codec/kernels; addresses and numbers are int32.
     * @throws {AezError} "OutOfMemory" if there is none for its scratch
     */
    call(name, ...values) {
        if (this.#functions[name](...values) !== 0) throw noMemory();
    }

    /**
     * Take memory, its content unknown.
     * @param {number} bytes
     * @returns {number} its address, a multiple of 16
     * @throws {AezError} "OutOfMemory" if there is not so much
     */
    take(bytes) {
        // Checked here too: WebAssembly would take the number modulo 2**32.
        const at = bytes <= MAX_MEMORY_BYTES ? this.#functions.malloc(bytes) : 0;
        if (!at) throw noMemory();
        return at;
    }

    /** Take memory for a copy of a typed array, and return its address. */
    keep(array) {
        const at = this.take(array.byteLength);
        this.u8.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
        return at;
    }

    /** The top of the stack, for `release`. */
    mark() {
        return this.take(0);
    }

    /** Give back all that was taken since `mark` returned this. */
    release(mark) {
        this.#functions.free(mark);
    }

    /** The memory as bytes; `i16`, `i32`, `u32` likewise. Good until the next allocation. */
    get u8() {
        return this.#current().u8;
    }

    get i16() {
        return this.#current().i16;
    }

    get i32() {
        return this.#current().i32;
    }

    #current() {
        const buffer = this.#functions.memory.buffer;
        if (this.#views?.u8.buffer !== buffer) {
            this.#views = {
                u8: new Uint8Array(buffer),
                i16: new Int16Array(buffer),
                i32: new Int32Array(buffer),
            };
        }
        return this.#views;
    }
}
