/**
 * What streams of one image and collections have in common: their models, what is known to be
 * damaged, and what `details` says of an image.
 */
import { AezError } from "./bytes.js";
import { LOSSLESS_QUALITY, maxErrorOf, NEAR_LOSSLESS, STORED_QUALITY } from "./headers.js";

// Asked for at a time. A stream of a few KiB can claim more images than there is memory for names.
const MAX_IMAGES = 1 << 24;

export class Stream {
    #hashes = new Set(); // of the models that it is known to use
    #noted = new Set(); // what `damage` holds

    /** files: ModelFiles */
    constructor(files) {
        this.files = files;
        /** @type {{from: number, to: number, error: AezError}[]} what is known to be damaged */
        this.damage = [];
    }

    /** Take the file of a model that was missing. @returns {string} its hash */
    addModel(file) {
        return this.files.add(file);
    }

    /** The models that parts read so far name. */
    get models() {
        return [...this.#hashes].map((hash) => {
            const embedded = this.files.isEmbedded(hash);
            const present = embedded || this.files.has(hash);
            return { hash, name: this.files.nameOf(hash), embedded, present };
        });
    }

    uses(hash) {
        if (hash) this.#hashes.add(hash);
    }

    close() {}

    /** @throws {RangeError} */
    checkRange(from, to) {
        const whole = Number.isInteger(from) && Number.isInteger(to);
        if (!whole || from < 0 || to > this.length || from > to) {
            throw new RangeError(`images ${from} to ${to} of a stream of ${this.length}`);
        }
        if (to - from > MAX_IMAGES) {
            throw new RangeError(`${to - from} images: ask for at most ${MAX_IMAGES} at a time`);
        }
    }

    /** @throws {RangeError} unless these are numbers of images, rising */
    checkNumbers(numbers) {
        numbers.forEach((number, k) => {
            this.checkRange(number, number + 1);
            if (k && numbers[k - 1] >= number) throw new RangeError("numbers do not rise");
        });
    }

    noteDamage(from, to, error) {
        const key = `${from} ${to} ${error.kind}`;
        if (!this.#noted.has(key)) this.damage.push({ from, to, error });
        this.#noted.add(key);
    }

    /** What a part is, for `details`. */
    coding(modelHash, quality, bytes) {
        const lossless = quality >= LOSSLESS_QUALITY;
        const near = quality > NEAR_LOSSLESS;
        const kinds = { [STORED_QUALITY]: "stored" };
        return {
            bytes,
            quality,
            model: modelHash,
            modelName: this.files.nameOf(modelHash),
            kind: kinds[quality] ?? (near ? "near-lossless" : lossless ? "lossless" : "lossy"),
            maxError: maxErrorOf(quality),
        };
    }
}

/** @throws {AezError} unless streams of a model can have a quality; offset: of it, in the stream */
export function checkFits(model, quality, offset) {
    if (model.lossless !== quality >= LOSSLESS_QUALITY) {
        const kind = model.lossless ? "lossless" : "lossy";
        const found = `quality ${quality} of a ${kind} model`;
        throw new AezError("CorruptPayload", found, offset);
    }
}
