/**
 * Answers requests about models, for tests/test_view_kernels.py: node model_run.mjs REQUESTS.json
 * -> one JSON list.
 *
 *     {load: PATH}                                -> {hash, name, lossless} or {error, kind}
 *     {decode: PATH, quality, counts, messages}   -> {pixels, errors}; bytes are base64, everywhere
 *     {decode: ..., raw: true}                    the same, damaged pixels as they came out
 *     {frequencies: logits, exp}                  -> {freq}
 */
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { loadKernels } from "../../codec/view/web/kernels.js";
import { loadModel } from "../../codec/view/web/models.js";
import { unpackModel } from "../../codec/view/web/models_file.js";
import { Ladder } from "../../codec/view/web/models_ladder.js";
import { Pixels } from "../../codec/view/web/models_pixels.js";

const web = new URL("../../codec/view/web/", import.meta.url);
const vendored = readdirSync(new URL("vendor/", web)).find((name) => /^fzstd.*js$/.test(name));
const { decompress } = await import(new URL(`vendor/${vendored}`, web));
const kernels = await loadKernels(readFileSync(new URL("kernels.wasm", web)));
const bytesOf = (text) => new Uint8Array(Buffer.from(text, "base64"));
const textOf = (bytes) =>
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
const tools = {
    sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
    unstored: (bytes) => {
        const pixels = bytes.length === 784 ? bytes : decompress(bytes);
        if (pixels.length !== 784) throw new RangeError(`it has ${pixels.length} pixels`);
        return pixels;
    },
};
const models = new Map();

function modelOf(path, raw) {
    const key = `${path} ${raw}`;
    if (!models.has(key)) {
        const file = new Uint8Array(readFileSync(path));
        models.set(key, raw ? rawModel(file) : loadModel(file, kernels, tools));
    }
    return models.get(key);
}

function rawModel(file) {
    const { architecture, bundle } = unpackModel(file);
    return architecture === "ladder-1"
        ? new Ladder(bundle, kernels)
        : new Pixels(bundle, kernels, tools.unstored);
}

function answer(request) {
    if (request.load) {
        const { hash, name, lossless } = loadModel(
            new Uint8Array(readFileSync(request.load)),
            kernels,
            tools,
        );
        return { hash, name, lossless };
    }
    if (request.decode) {
        const { decode: path, raw, quality, messages, counts } = request;
        const { pixels, errors } = modelOf(path, raw).decode(
            quality,
            messages.map(bytesOf),
            counts,
        );
        return { pixels: textOf(pixels), errors };
    }
    const logits = bytesOf(request.frequencies);
    const mark = kernels.mark();
    const [exp, from] = [kernels.keep(bytesOf(request.exp)), kernels.keep(logits)];
    const to = kernels.take(logits.length);
    kernels.call("frequencies", exp, logits.length / 1024, from, to);
    const freq = textOf(kernels.u8.slice(to, to + logits.length));
    kernels.release(mark);
    return { freq };
}

const answers = JSON.parse(readFileSync(process.argv[2])).map((request) => {
    const mark = request.load ? kernels.mark() : null; // nothing stays of models only tried
    try {
        return answer(request);
    } catch (error) {
        return { error: error.message, kind: error.kind ?? error.name };
    } finally {
        if (mark !== null) kernels.release(mark);
    }
});
process.stdout.write(JSON.stringify(answers));
