// Decoded images: who decodes them, in which order, and how many stay in memory.
//
// READ ME FIRST
// - The grid says what is in sight, and what comes next, as often as it likes.  Nothing is queued: a
//   worker that gets free takes the first wanted images that nobody has.  So what has scrolled out
//   of sight is never decoded.
// - Images that share a message, a group, are decoded together or not at all.  So a job is of whole
//   groups, and each is decoded once.  Which images those are, a worker says: 4096 at a time.
// - A stream of a few KiB can claim billions of images: nothing here is as long as the stream.
// - Each worker has opened the stream by itself and does one thing at a time.  A pool is for one
//   stream; for another one, make another pool and end this one.
// - Pixels stay as grey bytes in slabs, MAX_KEPT images; then the oldest give way, but none that is
//   in sight.

import { isAbsent, isMemory } from "./page_text.js";

export const IMAGE = 784; // pixels
const SLAB = 4096; // images
const MAX_KEPT = 4 * SLAB; // 13 MB: a few screens
const JOB_MS = 80; // a worker's job takes about so long: pictures come in small steps
const IDLE_MS = 30; // when nothing in sight is missing: soon free for what comes into sight
const MAX_JOB = 256; // images
const RANGE = 4096; // images whose groups are asked for at once
const MAX_RANGES = 1024; // 8 MB

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
        this.groups = new Map(); // range -> place of the first image of each one's group; or null
        this.suspects = null; // numbers in damaged places, if somebody asks what is damaged
        this.checked = new Set(); // keys of those places
        this.sight = []; // numbers that give way to no other
        this.inSight = []; // those of them that are still to be decoded
        this.ahead = [];
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
        this.length = info.length;
        this.slots = new Map(); // number -> slot, the oldest first
        this.most = Math.min(MAX_KEPT, info.length);
        this.slabs = [];
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
            worker.postMessage({ ...data, id, task }, data.room ? [data.room.buffer] : []);
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
        const pixels = new Uint8Array(0);
        const errors = numbers.map(() => null);
        if (!numbers.length) return { pixels, errors };
        const found = await this.call("images", { numbers });
        for (const [number, error] of found.failed) errors[number - from] = error;
        return { pixels: found.pixels, errors };
    }

    /** Give a model to all workers; what failed without it is tried again. */
    async addModel(bytes) {
        for (const worker of this.workers) this.found(await this.ask(worker, "model", { bytes }));
        for (const [number, error] of this.errors) {
            if (isAbsent(error)) this.errors.delete(number);
        }
        this.changed();
    }

    /**
     * Decode these, in this order, and nothing that was wanted before.
     * @param {number[]} inSight  before all others
     * @param {number[]} ahead  when nothing else is to do
     */
    want(inSight, ahead = []) {
        this.inSight = this.sight = inSight;
        this.most = Math.max(this.most, Math.min(2 * inSight.length, this.length));
        this.ahead = ahead;
        this.pump();
    }

    /** @returns {Uint8Array | null} the 784 pixels of an image, if they are there */
    pixels(number) {
        const slot = this.slots.get(number);
        if (slot === undefined) return null;
        const start = (slot % SLAB) * IMAGE;
        return this.slabs[Math.floor(slot / SLAB)].subarray(start, start + IMAGE);
    }

    /** How many images have not the model that they need. */
    get absent() {
        let count = 0;
        for (const error of this.errors.values()) count += isAbsent(error);
        return count;
    }

    /** How many images there was too little memory for. */
    get unmade() {
        let count = 0;
        for (const error of this.errors.values()) count += isMemory(error);
        return count;
    }

    /** The errors of images that are damaged, by number. */
    get damaged() {
        const isDamage = (error) => !isAbsent(error) && !isMemory(error);
        return new Map([...this.errors].filter(([, error]) => isDamage(error)));
    }

    missing(number) {
        return !this.slots.has(number) && !this.errors.has(number);
    }

    pump() {
        for (const worker of this.workers) {
            if (worker.busy || this.ended) continue;
            const [task] = (worker === this.workers[0] && this.calls[0]) || [];
            // facts wait for what is in sight; other questions and images take turns
            const only = task === "facts";
            const job = task && !only && worker.turn ? null : this.next(only);
            if (job && job.range !== undefined) this.learn(worker, job.range);
            else if (job) this.decode(worker, job.numbers);
            else if (task) this.answer(worker);
            worker.turn = job !== null;
        }
    }

    /** What a free worker does next: {numbers} to decode, {range} to ask for groups, or null. */
    next(onlyInSight) {
        const isOpen = (number) => this.missing(number) && !this.pending.has(number);
        this.inSight = this.inSight.filter(isOpen);
        // the last ones are shared, so that all workers end at the same time
        const share = Math.ceil(this.inSight.length / this.workers.length);
        const job = this.take(this.inSight, JOB_MS, share);
        if (job || onlyInSight) return job;
        this.ahead = this.ahead.filter(isOpen);
        return this.take(this.ahead, IDLE_MS) || this.take(this.others(), JOB_MS);
    }

    /**
     * Decode all that may be damaged, as there is time: a damaged block can have groups that are
     * whole, and only decoding tells which.
     */
    suspect() {
        this.suspects ||= this.inDamage();
        this.pump();
    }

    * inDamage() {
        for (const [key, { from, to }] of this.damage) { // those that are added meanwhile, too
            if (this.checked.has(key)) continue;
            this.checked.add(key);
            for (let number = from; number < to; number++) yield number;
        }
    }

    * others() {
        while (this.suspects) {
            const { value, done } = this.suspects.next();
            if (done) this.suspects = null;
            else if (this.missing(value) && !this.pending.has(value)) yield value;
        }
        while (this.background) {
            const number = this.background();
            if (number === null) return;
            if (this.missing(number) && !this.pending.has(number)) yield number;
        }
    }

    /** Take the groups of some wanted images, at most `share` of these. */
    take(wanted, ms, share = Infinity) {
        const size = Math.min(Math.max(4, this.perMs * ms), MAX_JOB);
        const numbers = [];
        let shared = 0;
        for (const number of wanted) {
            if (this.pending.has(number)) { // with another one of its group
                shared++;
                continue;
            }
            const range = Math.floor(number / RANGE);
            const starts = this.groups.get(range);
            if (starts === null) continue; // asked for
            if (!starts) {
                if (!numbers.length) return { range };
                break;
            }
            if (numbers.length && (numbers.length >= size || shared >= share)) break;
            shared++;
            const start = starts[number - range * RANGE];
            for (let k = start; k < starts.length; k++) {
                if (starts[k] !== start) continue;
                numbers.push(range * RANGE + k);
                this.pending.add(range * RANGE + k);
            }
        }
        return numbers.length ? { numbers: numbers.sort((a, b) => a - b) } : null;
    }

    /** Ask which images of a range share groups. */
    async learn(worker, range) {
        worker.busy = true;
        this.groups.set(range, null);
        const from = range * RANGE;
        const to = Math.min(from + RANGE, this.length);
        try {
            const answer = await this.ask(worker, "groups", { from, to });
            this.found(answer);
            this.groups.set(range, answer.starts);
        } catch { // what is wrong is told when the images are asked for
            this.groups.set(range, Uint16Array.from({ length: to - from }, (_, k) => k));
        }
        if (this.groups.size > MAX_RANGES) this.groups.delete(this.groups.keys().next().value);
        worker.busy = false;
        this.pump();
    }

    async decode(worker, numbers) {
        worker.busy = true;
        const began = performance.now();
        try {
            const { room } = worker; // what the last pixels came in
            worker.room = null;
            const answer = await this.ask(worker, "images", { numbers, room });
            this.found(answer);
            this.keep(answer);
            worker.room = new Uint8Array(answer.pixels.buffer);
            this.decoded += numbers.length;
            const speed = numbers.length / Math.max(1, performance.now() - began);
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

    keep({ numbers, pixels, failed }) {
        for (const [number, error] of failed) this.errors.set(number, error);
        if (this.slots.size + numbers.length > this.most) this.renew(this.sight);
        numbers.forEach((number, k) => {
            if (!this.missing(number)) return;
            const source = pixels.subarray(k * IMAGE, (k + 1) * IMAGE);
            if (this.arrived) this.arrived(number, source);
            let slot = this.slots.size;
            if (slot >= this.most) {
                const [oldest] = this.slots.keys();
                slot = this.slots.get(oldest);
                this.slots.delete(oldest);
            }
            this.slots.set(number, slot);
            const slab = Math.floor(slot / SLAB);
            if (!this.slabs[slab]) {
                const left = this.length - slab * SLAB;
                this.slabs[slab] = new Uint8Array(Math.min(SLAB, left) * IMAGE);
            }
            this.slabs[slab].set(source, (slot % SLAB) * IMAGE);
        });
    }

    /** Make images, as far as they are there, the newest. */
    renew(numbers) {
        for (const number of numbers) {
            const slot = this.slots.get(number);
            if (slot === undefined) continue;
            this.slots.delete(number);
            this.slots.set(number, slot);
        }
    }

    /** End the workers and forget everything. */
    end() {
        this.ended = true;
        for (const worker of this.started) worker.terminate();
        URL.revokeObjectURL(this.url);
    }
}
