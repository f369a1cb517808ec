// Originals beside what was decoded: errors as pictures and in numbers.
//
// An error is decoded - original, -255 .. 255, shown by its colour: black is none, amber is
// brighter than the original, blue darker.  PSNR is 10 log10(255^2 / MSE), that of all images from
// their common MSE.

import { IMAGE } from "./page_pool.js";
import { isolated, written } from "./page_text.js";

const FULL = 32; // the error that has the full colour, at first
const AMBER = [255, 176, 64];
const BLUE = [84, 160, 255];

/** PSNR in dB of a sum of squared errors over so many values.  Infinity if there is none. */
export function psnr(sse, count) {
    return sse ? 10 * Math.log10(255 * 255 * count / sse) : Infinity;
}

/** @param {number} db @returns {string} */
export function decibels(db) {
    return db === Infinity ? "exact" : `${written(db, 1)} dB`;
}

export class Comparison {
    /**
     * @param {Uint8Array} originals  784 bytes an image
     * @param {number} length  images of the stream
     * @param {{names: ?string[], numbers: ?number[]}} given  their names, if they are others; the
     *   images of the stream that they belong to, if not 0, 1, ...
     */
    constructor(originals, length, { names, numbers }) {
        const count = originals.length / IMAGE;
        this.originals = originals;
        this.names = names;
        this.numbers = (numbers || Array.from({ length: count }, (_, k) => k))
            .filter((number) => number < length);
        const known = 1 + this.numbers.reduce((most, number) => Math.max(most, number), -1);
        this.place = new Int32Array(known).fill(-1); // number of an image -> place of its original
        this.numbers.forEach((number, k) => { this.place[number] = k; });
        this.next = 0; // the place to measure next
        this.psnr = new Float32Array(known).fill(NaN); // NaN: not known
        this.largest = new Uint8Array(known);
        this.done = 0;
        this.sse = 0;
        this.scale(FULL);
    }

    /** full: the error that has the full colour. */
    scale(full) {
        this.full = full;
        this.colours = Uint32Array.from({ length: 511 }, (_, at) => {
            const error = at - 255;
            const part = Math.min(1, Math.abs(error) / full) ** 0.75;
            const [red, green, blue] = (error > 0 ? AMBER : BLUE).map((c) => Math.round(c * part));
            return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
        });
    }

    /** The number of an image to measure, each one once; null: no more. */
    another() {
        return this.next < this.numbers.length ? this.numbers[this.next++] : null;
    }

    has(number) {
        return this.place[number] >= 0;
    }

    isKnown(number) {
        return this.psnr[number] >= 0;
    }

    original(number) {
        const start = this.place[number] * IMAGE;
        return this.originals.subarray(start, start + IMAGE);
    }

    /** Errors + 255 of an image: places in `colours`.  @returns {Uint16Array} */
    errors(number, pixels) {
        const original = this.original(number);
        return Uint16Array.from(pixels, (value, k) => value - original[k] + 255);
    }

    /** Measure an image, once. */
    measure(number, pixels) {
        if (!this.has(number) || this.isKnown(number)) return;
        const original = this.original(number);
        let sse = 0;
        let largest = 0;
        for (let k = 0; k < IMAGE; k++) {
            const error = Math.abs(pixels[k] - original[k]);
            sse += error * error;
            if (error > largest) largest = error;
        }
        this.psnr[number] = psnr(sse, IMAGE);
        this.largest[number] = largest;
        this.sse += sse;
        this.done++;
    }

    /** A line of all images that are measured. */
    summary() {
        if (!this.done) return "";
        let worst = -1;
        let largest = 0;
        for (const number of this.numbers) {
            if (!this.isKnown(number)) continue;
            if (worst < 0 || this.psnr[number] < this.psnr[worst]) worst = number;
            if (this.largest[number] > largest) largest = this.largest[number];
        }
        const count = this.numbers.length;
        const some = this.done < count
            ? `${written(this.done)} of ${written(count)} compared \u00b7 ` : "";
        return `${some}PSNR ${decibels(psnr(this.sse, this.done * IMAGE))} \u00b7 worst ` +
            `${decibels(this.psnr[worst])} (image ${written(worst)}) \u00b7 ` +
            `largest error ${largest}`;
    }

    /** What is told of an image: [name, text][]. */
    notes(number) {
        const notes = [];
        const name = this.names && this.has(number) && this.names[this.place[number]];
        if (name) notes.push(["Original", isolated(String(name))]);
        if (this.isKnown(number)) {
            notes.push(["PSNR", decibels(this.psnr[number])]);
            notes.push(["Largest error", String(this.largest[number])]);
        }
        return notes;
    }
}
