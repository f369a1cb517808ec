// The page's worker: it owns one opened stream and answers questions about it.
//
//     {id, task: "open", source, models, wasm}  ->  {id, answer: what the stream is}
//     {id, task: "images", numbers}             ->  {id, answer: pixels and errors of at least these}
//     {id, task: "facts", from, to}             ->  {id, answer: names, labels, bytes, codings}
//     {id, task: "model", bytes}                ->  {id, answer: the stream's models}
//
// A failure is answered {id, error: {kind, message, modelHash}}.  Arrays of numbers are transferred.

import { open } from "./aez.js";
import { supported } from "./kernels.js";

const NEAR = 3; // so many images between two wanted ones are decoded along: they share a group
let stream = null;

function told(error) {
    const { kind = "", message = String(error), modelHash = "" } = error || {};
    return { kind, message, modelHash };
}

async function opened({ source, models, wasm }) {
    const missing = supported();
    if (missing) throw new Error(missing);
    stream = await open(source, { models, wasm });
    return {
        length: stream.length,
        kind: stream.kind,
        damage: stream.damage.map(({ from, to, error }) => ({ from, to, error: told(error) })),
        models: stream.models,
    };
}

/** The images of rising numbers, with those between that come at no cost. */
async function images({ numbers }) {
    const found = [];
    for (let i = 0; i < numbers.length;) {
        const from = numbers[i];
        let to = from + 1;
        while (++i < numbers.length && numbers[i] - to <= NEAR) to = numbers[i] + 1;
        const { pixels, errors } = await stream.images(from, to);
        const failed = [];
        errors.forEach((error, k) => { if (error) failed.push([from + k, told(error)]); });
        found.push({ from, to, pixels, failed });
    }
    return found;
}

async function facts({ from, to }) {
    const names = await stream.names(from, to);
    const labels = await stream.labels(from, to);
    const details = await stream.details(from, to);
    const bytes = new Float32Array(to - from);
    const codings = [];
    const places = new Map();
    const coding = Uint16Array.from(details, (detail, k) => {
        const { quality, model, modelName, kind, maxError } = detail || { kind: "unknown" };
        bytes[k] = detail ? detail.bytes : 0;
        const key = `${model} ${quality}`;
        if (!places.has(key)) {
            places.set(key, codings.length);
            codings.push({ quality, model, modelName, kind, maxError });
        }
        return places.get(key);
    });
    return { names: names.some((name) => name) ? names : null, labels, bytes, coding, codings };
}

const TASKS = {
    open: opened,
    images,
    facts,
    model: async ({ bytes }) => {
        await stream.addModel(bytes);
        return stream.models;
    },
};

self.onmessage = async ({ data }) => {
    try {
        const answer = await TASKS[data.task](data);
        const parts = Array.isArray(answer) ? answer.map((part) => part.pixels) : [];
        self.postMessage({ id: data.id, answer },
            parts.filter((pixels) => pixels).map((pixels) => pixels.buffer));
    } catch (error) {
        self.postMessage({ id: data.id, error: told(error) });
    }
};
