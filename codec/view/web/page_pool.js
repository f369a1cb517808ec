// Decoded images: who decodes them, in which order, and how many stay in memory.
//
// READ ME FIRST
// - The grid says what it wants, most urgent first, as often as it likes.  Nothing is queued: a
//   worker that gets free takes the first wanted images that nobody has.  So what has scrolled out
//   of sight is never decoded.
// - Each worker has opened the stream by itself and does one thing at a time.  A pool is for one
//   stream; for another one, make another pool and end this one.
// - Pixels stay as grey bytes in slabs, MAX_KEPT images; then the oldest give way.

import { isAbsent } from "./page_text.js";

export const IMAGE = 784; // pixels
const SLAB = 4096; // images
const MAX_KEPT = 16 * SLAB; // 51 MB: all of MNIST
const JOB_MS = 80; // a worker's job takes about so long: pictures come in small steps
const MAX_JOB = 256; // images

export class Pool {
    /**
     * @param {string} script  the text of the worker
     * @param {() => void} changed  called when images have come
     * @param {(hash: string) => Promise<Uint8Array | null>} modelOf  the models of the page
     */
    constructor(script, changed, modelOf) {
        this.modelOf = modelOf;
        this.url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
        this.changed = changed;
        this.workers = [];
        this.errors = new Map(); // number -> {kind, message, modelHash}
        this.models = new Map(); // hash -> {hash, name, embedded, present}: known by now
        this.damage = new Map(); // key -> {from, to, error}: known by now
        this.pending = new Set(); // numbers that a worker is busy with
        this.wanted = [];
        this.background = null; // () -> a number that could be decoded when nothing is wanted
        this.arrived = null; // (number, pixels): called with each image
        this.calls = []; // for the first worker: [task, data, resolve, reject]
        this.decoded = 0;
        this.perMs = 0.5; // images a ms and worker, measured
        this.ended = false;
    }

    /**
     * Start the workers.  The first one answers as soon as it has opened the stream; the others
     * follow.
     * @param {object} opening  source and wasm, as `open` takes them; dropped: models
     * @param {number} count  of workers
     * @returns {Promise<object>} length, kind, damage, models
     */
    async open(opening, count) {
        const first = this.start();
        const info = await this.ask(first, "open", opening);
        this.found(info);
        this.slots = new Int32Array(info.length); // slot + 1 of an image, 0: none
        this.owners = new Int32Array(Math.min(MAX_KEPT, info.length)); // image + 1 of a slot
        this.slabs = [];
        this.at = 0; // the next slot
        this.workers.push(first);
        this.pump();
        for (let k = 1; k < count && info.length > SLAB / 16; k++) {
            const other = this.start();
            this.ask(other, "open", opening).then(() => {
                this.workers.push(other);
                this.pump();
            }, () => other.terminate());
        }
        return info;
    }

    start() {
        const worker = new Worker(this.url);
        worker.calls = new Map();
        worker.onmessage = async ({ data }) => {
            if (data.lacks) {
                const bytes = await this.modelOf(data.lacks);
                return worker.postMessage({ gives: data.lacks, bytes });
            }
            const [resolve, reject] = worker.calls.get(data.id);
            worker.calls.delete(data.id);
            if (data.error) reject(data.error);
            else resolve(data.answer);
        };
        worker.onerror = (event) => {
            const message = `the decoder stopped: ${event.message || "no reason"}`;
            const error = { kind: "", message };
            for (const [, reject] of worker.calls.values()) reject(error);
            worker.calls.clear();
        };
        (this.started ||= []).push(worker);
        return worker;
    }

    ask(worker, task, data) {
        return new Promise((resolve, reject) => {
            const id = worker.asked = (worker.asked || 0) + 1;
            worker.calls.set(id, [resolve, reject]);
            worker.postMessage({ ...data, id, task });
        });
    }

    /** Ask the first worker, in turn with its images. */
    call(task, data) {
        return new Promise((resolve, reject) => {
            this.calls.push([task, data, resolve, reject]);
            this.pump();
        });
    }

    /** Exact pixels of images from .. to - 1.  @returns {Promise<{pixels, errors}>} */
    async images(from, to) {
        const numbers = Array.from({ length: to - from }, (_, k) => from + k);
        const pixels = new Uint8Array(numbers.length * IMAGE);
        const errors = numbers.map(() => null);
        const { parts } = numbers.length ? await this.call("images", { numbers }) : { parts: [] };
        for (const part of parts) {
            pixels.set(part.pixels, (part.from - from) * IMAGE);
            for (const [number, error] of part.failed) errors[number - from] = error;
        }
        return { pixels, errors };
    }

    /** Give a model to all workers; what failed without it is tried again. */
    async addModel(bytes) {
        for (const worker of this.workers) this.found(await this.ask(worker, "model", { bytes }));
        for (const [number, error] of this.errors) {
            if (isAbsent(error)) this.errors.delete(number);
        }
        this.changed();
    }

    /** Decode these, in this order, before all others.  @param {number[]} numbers */
    want(numbers) {
        this.wanted = numbers;
        this.pump();
    }

    /** @returns {Uint8Array | null} the 784 pixels of an image, if they are there */
    pixels(number) {
        const slot = this.slots[number] - 1;
        if (slot < 0) return null;
        const start = (slot % SLAB) * IMAGE;
        return this.slabs[Math.floor(slot / SLAB)].subarray(start, start + IMAGE);
    }

    /** How many images have not the model that they need. */
    get absent() {
        let count = 0;
        for (const error of this.errors.values()) count += isAbsent(error);
        return count;
    }

    missing(number) {
        return !this.slots[number] && !this.errors.has(number);
    }

    pump() {
        for (const worker of this.workers) {
            if (worker.busy || this.ended) continue;
            const isFirst = worker === this.workers[0];
            // facts and images take turns: neither waits long for the other
            const numbers = isFirst && this.calls.length && worker.turn ? [] : this.take();
            if (numbers.length) this.decode(worker, numbers);
            else if (isFirst && this.calls.length) this.answer(worker);
            worker.turn = numbers.length > 0;
        }
    }

    take() {
        const size = Math.min(Math.max(4, Math.round(this.perMs * JOB_MS)), MAX_JOB);
        const numbers = [];
        let i = 0;
        for (; i < this.wanted.length && numbers.length < size; i++) {
            const number = this.wanted[i];
            if (this.missing(number) && !this.pending.has(number)) {
                this.pending.add(number);
                numbers.push(number);
            }
        }
        this.wanted = this.wanted.slice(i);
        while (this.background && numbers.length < size) {
            const number = this.background();
            if (number === null) break;
            if (!this.missing(number) || this.pending.has(number)) continue;
            this.pending.add(number);
            numbers.push(number);
        }
        return numbers.sort((a, b) => a - b);
    }

    async decode(worker, numbers) {
        worker.busy = true;
        const began = performance.now();
        let count = 0;
        try {
            const answer = await this.ask(worker, "images", { numbers });
            this.found(answer);
            for (const part of answer.parts) {
                count += part.to - part.from;
                this.keep(part);
            }
            this.decoded += count;
            const speed = count / Math.max(1, performance.now() - began);
            this.perMs = 0.7 * this.perMs + 0.3 * speed;
        } catch (error) {
            for (const number of numbers) this.errors.set(number, error);
        }
        for (const number of numbers) this.pending.delete(number);
        worker.busy = false;
        if (this.ended) return;
        this.changed();
        this.pump();
    }

    async answer(worker) {
        const [task, data, resolve, reject] = this.calls.shift();
        worker.busy = true;
        await this.ask(worker, task, data).then((found) => {
            this.found(found);
            resolve(found);
        }, reject);
        worker.busy = false;
        this.pump();
    }

    /** Damage and models that a worker knows of; the others may know of others. */
    found({ damage, models }) {
        for (const model of models) this.models.set(model.hash, model);
        for (const one of damage) {
            this.damage.set(`${one.from} ${one.to} ${one.error.message}`, one);
        }
    }

    keep({ from, to, pixels, failed }) {
        for (const [number, error] of failed) this.errors.set(number, error);
        for (let number = from; number < to; number++) {
            if (this.slots[number] || this.errors.has(number)) continue;
            const source = pixels.subarray((number - from) * IMAGE, (number - from + 1) * IMAGE);
            if (this.arrived) this.arrived(number, source);
            const slot = this.at;
            this.at = (slot + 1) % this.owners.length;
            if (this.owners[slot]) this.slots[this.owners[slot] - 1] = 0;
            this.owners[slot] = number + 1;
            this.slots[number] = slot + 1;
            const slab = Math.floor(slot / SLAB);
            if (!this.slabs[slab]) {
                const left = this.owners.length - slab * SLAB;
                this.slabs[slab] = new Uint8Array(Math.min(SLAB, left) * IMAGE);
            }
            this.slabs[slab].set(source, (slot % SLAB) * IMAGE);
        }
    }

    /** End the workers and forget everything. */
    end() {
        this.ended = true;
        for (const worker of this.started) worker.terminate();
        URL.revokeObjectURL(this.url);
    }
}
