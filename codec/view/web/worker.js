// The page's worker: it owns one opened stream and answers questions about it.
//
//     {id, task: "open", source, dropped, wasm} ->  {id, answer: what the stream is}
//     {id, task: "images", numbers, room}       ->  {id, answer: pixels, failed: [number, error][]}
//     {id, task: "groups", from, to}            ->  {id, answer: starts of groups, from `from` on}
//     {id, task: "facts", from, to}             ->  {id, answer: names, labels, bytes, codings}
//     {id, task: "model", bytes}                ->  {id, answer: damage and models}
//
// When a model of the page is needed first, the worker says {lacks: hash}, and the page answers
// {gives: hash, bytes}, null if it has none.
//
// A failure is answered {id, error: {kind, message, modelHash}}.  Pixels are transferred, and room for
// the next ones comes back with the next question: scrolling makes no garbage.

import { open } from "./aez.js";
import { supported } from "./kernels.js";

const MAX_NAME = 1000; // characters that are shown: a name can have millions
let stream = null;
let damageTold = 0; // places that the page knows of
const modelsTold = new Map(); // hash -> whether it is present

function told(error) {
    const { kind = "", message = String(error), modelHash = "" } = error || {};
    return { kind, message, modelHash };
}

const awaited = new Map(); // hash -> what takes the model's bytes

function models(hash) {
    self.postMessage({ lacks: hash });
    return new Promise((resolve) => { awaited.set(hash, resolve); });
}

async function opened({ source, dropped, wasm }) {
    const missing = supported();
    if (missing) throw new Error(missing);
    try {
        stream = await open(source, { models, wasm });
    } catch (error) {
        // what is left of a damaged collection is worth seeing; of others, the first error counts
        stream = await open(source, { models, wasm, recover: true }).catch(() => { throw error; });
        if (!stream.length) throw error;
    }
    for (const bytes of dropped) stream.addModel(bytes);
    return { length: stream.length, kind: stream.kind, ...learnt() };
}

/** Damage and models that the page does not know of yet: reading finds more. */
function learnt() {
    const damage = stream.damage.slice(damageTold)
        .map(({ from, to, error }) => ({ from, to, error: told(error) }));
    damageTold = stream.damage.length;
    const models = stream.models.filter(({ hash, present }) => modelsTold.get(hash) !== present);
    for (const { hash, present } of models) modelsTold.set(hash, present);
    return { damage, models };
}

function shortened(name) {
    return name.length > MAX_NAME ? `${name.slice(0, MAX_NAME)}\u2026` : name;
}

/** The images of rising numbers. */
async function images({ numbers, room }) {
    const { pixels, errors } = await stream.imagesAt(numbers, room);
    const failed = [];
    errors.forEach((error, k) => { if (error) failed.push([numbers[k], told(error)]); });
    return { numbers, pixels, failed, ...learnt() };
}

/** Which images share a group: of each, the place of the first one of its group in this range. */
async function groups({ from, to }) {
    const first = new Map();
    const starts = Uint16Array.from(await stream.groups(from, to), (start, k) => {
        if (!first.has(start)) first.set(start, k);
        return first.get(start);
    });
    return { starts, ...learnt() };
}

/** Names, labels and sizes; each of them can be damaged without the others. */
async function facts({ from, to }) {
    const faults = [];
    const attempt = async (method) => {
        try {
            return await stream[method](from, to);
        } catch (error) {
            faults.push(told(error));
            return null;
        }
    };
    const names = await attempt("names");
    const labels = await attempt("labels");
    const details = await attempt("details") || new Array(to - from).fill(null);
    const bytes = new Float32Array(to - from);
    const codings = [];
    const places = new Map();
    const coding = Uint16Array.from(details, (detail, k) => {
        const { quality, model, modelName, kind, maxError } = detail || { kind: "unknown" };
        bytes[k] = detail ? detail.bytes : NaN; // not known
        const key = `${model} ${quality}`;
        if (!places.has(key)) {
            places.set(key, codings.length);
            codings.push({ quality, model, modelName, kind, maxError });
        }
        return places.get(key);
    });
    const named = names && names.some((name) => name);
    const found = { names: named ? names.map(shortened) : null, labels, bytes, coding, codings, faults };
    return { ...found, ...learnt() };
}

const TASKS = {
    open: opened,
    images,
    groups,
    facts,
    model: async ({ bytes }) => {
        await stream.files.get(stream.addModel(bytes)); // loads it: BadModel if it is none
        return learnt();
    },
};

self.onmessage = async ({ data }) => {
    if (data.gives) return awaited.get(data.gives)(data.bytes);
    try {
        const answer = await TASKS[data.task](data);
        const moved = answer.pixels ? [answer.pixels.buffer] : [];
        self.postMessage({ id: data.id, answer }, moved);
    } catch (error) {
        self.postMessage({ id: data.id, error: told(error) });
    }
};
