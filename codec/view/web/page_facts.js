// What is known of each image, in columns, and the order that filters and sorting give.
//
// A million images must fit and must be sorted in about a second: so columns are typed arrays, and
// a sort is that of one array of numbers, key * 2**32 + number of the image.
//
// A stream of a few KiB can claim billions of images.  So columns grow with what is known, and are
// of the first MAX_FACTS images; others are found by their numbers alone.

import { isAbsent, isMemory, told, written } from "./page_text.js";

const BYTE_STEPS = 16; // bytes of an image are sorted in steps of 1/16: keys stay below 2**53
const NUMBER = 2 ** 32;
const MAX_LISTED = 500; // labels, models or qualities in a list
export const MAX_FACTS = 2 ** 22; // images

/** How a coding is called.  @returns {string} */
export function qualityOf({ quality, kind, maxError }) {
    if (kind === "near-lossless") return `near-lossless, \u00b1${maxError}`;
    return kind === "lossy" ? `quality ${quality}` : kind;
}

/** Bytes of an image: its share of a group's, so seldom whole.  @returns {string} */
export function byteText(bytes) {
    return `${written(bytes, Number.isInteger(bytes) ? 0 : 1)} bytes`;
}

/** The number that somebody searches for, or -1. */
function numberIn(query) {
    const text = query.trim();
    return /^#?[\d,]+$/.test(text) ? Number(text.replace(/[#,]/g, "")) : -1;
}

export class Facts {
    /** @param {number} length  how many images */
    constructor(length) {
        this.length = length;
        this.most = Math.min(length, MAX_FACTS); // images that can be known
        this.known = 0; // images 0 .. known - 1 are known
        this.names = null;
        this.bytes = new Float32Array(0); // NaN: not known
        this.coding = new Uint32Array(0);
        this.codings = [];
        this.codingPlaces = new Map(); // model and quality -> place in `codings`
        this.label = new Uint32Array(0); // place in `labels` + 1; 0: none
        this.labels = [];
        this.places = new Map();
        this.psnr = null; // Float32Array, when images are compared
    }

    /** Take the next images' facts, as the worker tells them. */
    add(from, { names, labels, bytes, coding, codings }) {
        this.grow(from + bytes.length);
        this.bytes.set(bytes, from);
        const places = codings.map((one) => {
            const key = `${one.model} ${one.quality}`;
            if (!this.codingPlaces.has(key)) {
                this.codingPlaces.set(key, this.codings.push(one) - 1);
            }
            return this.codingPlaces.get(key);
        });
        coding.forEach((place, k) => { this.coding[from + k] = places[place]; });
        if (names) {
            this.names ||= [];
            while (this.names.length < from) this.names.push("");
            names.forEach((name, k) => { this.names[from + k] = name; });
        }
        if (labels) {
            labels.forEach((label, k) => {
                if (label === null || label === undefined) return;
                if (!this.places.has(label)) this.places.set(label, this.labels.push(label));
                this.label[from + k] = this.places.get(label);
            });
        }
        this.known = from + bytes.length;
    }

    /** Make room for so many images. */
    grow(count) {
        if (count <= this.bytes.length) return;
        const room = Math.min(this.most, Math.max(count, 2 * this.bytes.length));
        for (const column of ["bytes", "coding", "label"]) {
            const before = this[column];
            this[column] = new before.constructor(room);
            this[column].set(before);
        }
    }

    /** All that is known of an image. */
    of(number) {
        const known = number < this.known;
        return {
            number,
            name: (this.names && this.names[number]) || "",
            label: this.label[number] ? String(this.labels[this.label[number] - 1]) : "",
            bytes: known && !Number.isNaN(this.bytes[number]) ? this.bytes[number] : null,
            coding: known ? this.codings[this.coding[number]] : null,
        };
    }

    /** Labels as places (0: none), in the order of numbers or of texts. */
    sortedLabels() {
        return this.labels.map((_, k) => k + 1).sort((a, b) => {
            const [left, right] = [this.labels[a - 1], this.labels[b - 1]];
            return typeof left === "number" ? left - right : left < right ? -1 : 1;
        });
    }

    /** Options of the filters: for each select, values and texts.  Of the known images. */
    options(damaged) {
        const labels = new Uint32Array(this.labels.length + 1);
        const codings = new Uint32Array(this.codings.length);
        for (let i = 0; i < this.known; i++) {
            labels[this.label[i]]++;
            codings[this.coding[i]]++;
        }
        const models = new Map();
        const qualities = new Map();
        this.codings.forEach((coding, k) => {
            const name = coding.modelName || coding.model || coding.kind;
            models.set(name, (models.get(name) || 0) + codings[k]);
            const quality = qualityOf(coding);
            qualities.set(quality, (qualities.get(quality) || 0) + codings[k]);
        });
        const listed = (counts, all) => [
            ["", all],
            ...[...counts].slice(0, MAX_LISTED)
                .map(([name, count]) => [name, `${name} (${written(count)})`]),
        ];
        const label = this.sortedLabels().slice(0, MAX_LISTED).map((place) => (
            [String(place), `${this.labels[place - 1]} (${written(labels[place])})`]));
        const more = this.labels.length - label.length;
        const every = `Every label${more ? ` (search for the other ${written(more)})` : ""}`;
        const quality = listed(qualities, "Every quality");
        if (quality.length === 2) quality.pop();
        if (damaged) quality.push(["damaged", "damaged"]);
        const model = listed(models, "Every model");
        return {
            label: label.length ? [["", every], ...label] : [],
            model: model.length > 2 ? model : [],
            quality: quality.length > 1 ? quality : [],
        };
    }

    /**
     * The numbers of the images to show, in order.
     * @param {{query: string, label: string, model: string, quality: string, sort: string}} wish
     * @param {Map<number, object>} errors  of images that are damaged
     * @returns {Uint32Array}
     */
    order(wish, errors) {
        const keep = this.filter(wish, errors);
        const key = this.keys(wish.sort);
        const numbers = [];
        for (let i = 0; i < this.most; i++) if (!keep || keep(i)) numbers.push(i);
        if (keep && this.most < this.length) {
            const beyond = [...errors.keys(), numberIn(wish.query)]
                .filter((i) => i >= this.most && i < Math.min(this.length, NUMBER) && keep(i));
            numbers.push(...new Set(beyond.sort((a, b) => a - b)));
        }
        if (!key) return Uint32Array.from(numbers);
        const keys = Float64Array.from(numbers, (number) => key(number) * NUMBER + number);
        return Uint32Array.from(keys.sort(), (value) => value % NUMBER);
    }

    filter({ query, label, model, quality }, errors) {
        const tests = [];
        const text = query.trim().toLowerCase();
        const number = numberIn(query);
        if (text) {
            const named = this.names && text[0] !== "#";
            // labels that are not all listed can be searched for
            const place = this.labels.length <= MAX_LISTED ? 0
                : this.labels.findIndex((one) => String(one).toLowerCase() === text) + 1;
            tests.push((i) => i === number || (named && (this.names[i] || "").toLowerCase().includes(text))
                || (place && this.label[i] === place));
        }
        if (label) tests.push((i) => this.label[i] === Number(label));
        const codings = new Set(this.codings.flatMap((coding, k) => (
            (model && (coding.modelName || coding.model || coding.kind) !== model) ||
            (quality && quality !== "damaged" && qualityOf(coding) !== quality) ? [] : [k])));
        if (codings.size < this.codings.length) {
            tests.push((i) => i < this.known && codings.has(this.coding[i]));
        }
        if (quality === "damaged") tests.push((i) => errors.has(i));
        return tests.length ? (i) => tests.every((test) => test(i)) : null;
    }

    keys(sort) {
        if (sort === "bytes") { // those not known (NaN) last
            return (i) => 2 ** 20 - Math.min(Math.round(this.bytes[i] * BYTE_STEPS) || 0, 2 ** 20);
        }
        if (sort === "psnr") { // those not yet compared (NaN) last, after the exact ones
            return (i) => Math.round(Math.min(this.psnr[i], 998) * 1000) || 999000;
        }
        if (sort === "label") {
            const rank = new Uint32Array(this.labels.length + 1);
            this.sortedLabels().forEach((place, k) => { rank[place] = k + 1; });
            rank[0] = this.labels.length + 1; // those without a label last
            return (i) => rank[this.label[i] || 0];
        }
        return null;
    }
}

/** One image in words, for tooltips and screen readers: not yet made visible. */
export function described(fact, error) {
    const { number, name, label, bytes, coding } = fact;
    const parts = [`image ${written(number)}`];
    if (name) parts.push(name);
    if (label) parts.push(`label ${label}`);
    if (bytes !== null) parts.push(byteText(bytes));
    if (coding) parts.push(qualityOf(coding));
    if (error) parts.push(`${isAbsent(error) || isMemory(error) ? "not shown" : "damaged"}, ${told(error)}`);
    return parts.join(", ");
}
