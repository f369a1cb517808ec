/**
 * Opens streams, for tests/test_view_reader.py: node read_run.mjs REQUESTS.json -> one JSON list.
 *
 *     {stream: PATH or base64, via: "bytes" | "blob" | "buffer" | "ranges" | "whole", models: [PATH],
 *      ask: bool, add: [PATH], recover: bool, ranges: [[from, to]], at: [number], text: base64 ...}
 *     {xxh64: base64} -> {hash}; {names: a frame in base64, count} -> {names}
 *     {frame: base64} -> {content: base64}, or {error} and its message
 *  -> {length, kind, names, labels, details, damage, models, ranges: [{pixels, errors}], requests}
 *     or {kind, message} of the error of `open`
 *
 * via "ranges": an address of a server that knows range requests; "whole": of one that does not.
 */
import { createServer } from "node:http";
import { readFileSync, existsSync } from "node:fs";
import { open } from "../../codec/view/web/aez.js";
import { unpackNames } from "../../codec/view/web/texts.js";
import { unzstd, xxh64 } from "../../codec/view/web/zstd.js";

const web = new URL("../../codec/view/web/", import.meta.url);
const wasm = await WebAssembly.compile(readFileSync(new URL("kernels.wasm", web)));
const fileOf = (path) => new Uint8Array(readFileSync(path));
const base64 = (bytes) =>
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
const told = (error) => error && { kind: error.kind ?? error.name, message: error.message, modelHash: error.modelHash };

/** Serve bytes, and count what was asked for. */
async function serve(bytes, knowsRanges) {
    const seen = { requests: 0, bytes: 0 };
    const server = createServer((request, response) => {
        seen.requests++;
        const asked = knowsRanges && /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
        if (!asked) {
            seen.bytes += bytes.length;
            response.end(bytes);
            return;
        }
        const [from, to] = [Number(asked[1]), Math.min(Number(asked[2]), bytes.length - 1)];
        if (from >= bytes.length) {
            response.writeHead(416, { "Content-Range": `bytes */${bytes.length}` }).end("no");
            return;
        }
        seen.bytes += to - from + 1;
        response.writeHead(206, { "Content-Range": `bytes ${from}-${to}/${bytes.length}` });
        response.end(bytes.subarray(from, to + 1));
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    return { address: `http://127.0.0.1:${server.address().port}/x.aez`, server, seen };
}

async function answer(request) {
    if (request.xxh64) return { hash: xxh64(new Uint8Array(Buffer.from(request.xxh64, "base64"))).toString(16) };
    if (request.names) {
        const frame = new Uint8Array(Buffer.from(request.names, "base64"));
        return { names: unpackNames(frame, request.count, 0) };
    }
    if (request.frame) {
        const frame = new Uint8Array(Buffer.from(request.frame, "base64"));
        try {
            return { content: base64(unzstd(frame, { most: 1 << 24, what: "bytes", offset: 0 })) };
        } catch (error) {
            return { error: error.message, kind: error.kind };
        }
    }
    const bytes = existsSync(request.stream)
        ? fileOf(request.stream)
        : new Uint8Array(Buffer.from(request.stream, "base64"));
    const via = request.via ?? "bytes";
    let source = bytes, served = null;
    if (via === "blob") source = new Blob([bytes]);
    if (via === "buffer") source = bytes.slice().buffer;
    if (via === "ranges" || via === "whole") {
        served = await serve(bytes, via === "ranges");
        source = via === "whole" ? new URL(served.address) : served.address;
    }
    const files = (request.models ?? []).map(fileOf);
    const asked = [];
    const models = request.ask
        ? async (hash, name) => {
              asked.push([hash, name]);
              return files.shift() ?? null;
          }
        : files;
    try {
        const stream = await open(source, { models, wasm, recover: request.recover });
        const found = { length: stream.length, kind: stream.kind, ranges: [] };
        for (const [from, to] of request.ranges ?? [[0, stream.length]]) {
            const { pixels, errors } = await stream.images(from, to);
            found.ranges.push({ pixels: base64(pixels), errors: errors.map(told) });
        }
        if (request.at) {
            const { pixels, errors } = await stream.imagesAt(request.at);
            found.ranges.push({ pixels: base64(pixels), errors: errors.map(told) });
            found.groups = await stream.groups();
        }
        for (const path of request.add ?? []) {
            stream.addModel(fileOf(path));
            const { pixels, errors } = await stream.images(0, stream.length);
            found.ranges.push({ pixels: base64(pixels), errors: errors.map(told) });
        }
        found.served = served?.seen && { ...served.seen };
        if (!request.imagesOnly) {
            found.names = await stream.names();
            found.labels = await stream.labels();
            found.details = await stream.details();
        }
        found.models = stream.models;
        found.asked = asked;
        found.damage = stream.damage.map(({ from, to, error }) => ({ from, to, kind: error.kind, message: error.message }));
        stream.close();
        return found;
    } catch (error) {
        if (!error.kind) throw error;
        return { error: told(error) };
    } finally {
        served?.server.close();
    }
}

const answers = [];
for (const request of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
    answers.push(await answer(request));
}
console.log(JSON.stringify(answers));
