// The page: one stream at a time as a grid of images, and what one does with it.
//
// READ ME FIRST
// - `config` says which streams and models lie in the page; files that are dropped join them.
// - Opening a stream makes a new Pool; the old one's workers end, with all they held.
// - `window.aez` is for scripts and tests: what the page shows, and exact pixels.

import {
    blobBytes, element, fill, isAbsent, isMemory, isModel, isolated, sourceOf, told, visible, written,
} from "./page_text.js";
import { IMAGE, Pool } from "./page_pool.js";
import { byteText, described, Facts } from "./page_facts.js";
import { GREY, Grid } from "./page_grid.js";
import { Comparison, decibels } from "./page_compare.js";
import { One } from "./page_one.js";
import { startTheme } from "./page_theme.js";
import { damageLines, statusOf } from "./page_words.js";

const CHUNK = 4096; // images whose facts are asked for at once
const SEEK_MS = 300; // between looks for more damaged images
const FEW = [[1, 12], [60, 4], [250, 3], [Infinity, 2]]; // images, and the zoom that shows so many
const byId = (id) => document.getElementById(id);
const config = JSON.parse(byId("config").textContent);
const blob = (number) => blobBytes(byId(`blob-${number}`));

const streams = config.streams.map((one) => ({ ...one }));
const models = new Map(); // hash -> a promise of one that lies in the page, once it was needed
const dropped = []; // models
let code = null; // a promise of what the page carries: {script, wasm, originals}
let comparison = null;
let opening = null; // what `shown` will be
let shown = null; // {name, size, pool, facts, info, damaged}
let problem = null; // why nothing is shown
let remarks = []; // about dropped files
let faultsTold = 0; // places of damage, and models
let isZoomed = false; // by hand
let visibleMs = 0;
let painting = 0; // the frame that is asked for
let isStale = false; // all that is drawn
let seeking = 0; // a timer
let damagedTold = 0; // images, when they were listed
let ready = Promise.resolve();

// what there is to show

const source = {
    get panels() { return comparison ? 3 : 1; },
    get titles() { return comparison ? ["original", "decoded", "error"] : [""]; },
    pixels: (number) => shown.pool.pixels(number),
    fact: (number) => shown.facts.of(number),
    error: (number) => shown.pool.errors.get(number) || null,
    notes: (number) => (comparison ? comparison.notes(number) : []),
    want: (inSight, ahead) => shown && shown.pool.want(inSight, ahead),
    open: (position) => one.open(position),
    moved: () => tellStatus(),
    describe: (number) => described(source.fact(number), source.error(number)),
    panel(number, k) {
        if (comparison && k === 0) {
            return comparison.has(number) ? { values: comparison.original(number), colours: GREY }
                : { absent: true };
        }
        const pixels = source.pixels(number);
        const error = source.error(number);
        if (!pixels) return error && { absent: isAbsent(error) || isMemory(error) };
        if (!comparison || k === 1) return { values: pixels, colours: GREY };
        if (!comparison.has(number)) return { absent: true };
        return { values: comparison.errors(number, pixels), colours: comparison.colours };
    },
    value(number, place) {
        const pixels = source.pixels(number);
        if (!pixels) return "";
        if (!comparison || !comparison.has(number)) return String(pixels[place]);
        const original = comparison.original(number)[place];
        const error = pixels[place] - original;
        const sign = error > 0 ? "+" : error < 0 ? "\u2212" : "";
        return `${original} \u2192 ${pixels[place]} (${sign}${Math.abs(error)})`;
    },
    caption(number, width) {
        const error = source.error(number);
        if (error) {
            const kind = isAbsent(error) ? "no model"
                : isMemory(error) ? "no memory" : error.kind || "failed";
            return [["em", kind]];
        }
        const { label, bytes } = source.fact(number);
        const parts = label ? [["bdi", visible(label)]] : [];
        if (comparison && comparison.isKnown(number)) {
            parts.push(["i", decibels(comparison.psnr[number])]);
        }
        if (!label || width > 80) parts.push(["span", written(number)]);
        if (bytes !== null && width > 140) parts.push(["span", byteText(bytes)]);
        return parts;
    },
};
const grid = new Grid(byId("grid"), source);
const one = new One(source, grid);

/** Draw what has come, at the next frame.  all: captions, too. */
function changed(all = false) {
    isStale ||= all;
    painting ||= requestAnimationFrame(() => {
        painting = 0;
        if (!shown) return;
        grid.refresh(isStale || Boolean(comparison));
        isStale = false;
        one.refresh();
        if (faultsTold !== faults()) tellNotes();
        if (shown.pool.errors.size && !shown.isHurt) {
            shown.isHurt = true;
            fillFilters();
        }
        if (grid.complete) {
            visibleMs ||= performance.now();
            learn(shown); // no earlier: images come first
        }
        tellStatus();
    });
}

// opening

async function carried() {
    if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") {
        throw new Error("This browser is too old to decode the images: it has no WebAssembly.");
    }
    const text = config.worker === undefined ? byId("worker").textContent
        : new TextDecoder().decode(await blob(config.worker));
    const wasm = await WebAssembly.compile(await blob(config.wasm)).catch(() => {
        throw new Error("This browser cannot decode the images: its WebAssembly has no SIMD.");
    });
    const originals = config.compare && await blob(config.compare.blob);
    return { script: text, wasm, originals };
}

const isCarried = (hash) => config.models.some((model) => model.hash === hash);

/** The bytes of a model that lies in the page, or null. */
async function modelOf(hash) {
    const found = config.models.find((model) => model.hash === hash);
    if (found && !models.has(hash)) models.set(hash, blob(found.blob));
    return found ? models.get(hash) : null;
}

async function openStream(stream) {
    if (opening && opening.pool) opening.pool.end();
    shown = null;
    problem = null;
    byId("grid").dataset.state = "opening";
    grid.show(null, 0);
    const mine = { name: stream.name };
    opening = mine;
    let pool = null;
    try {
        const { script, wasm, originals } = await (code ||= carried());
        const { opened, size } = await sourceOf(stream, blob);
        if (opening !== mine) return;
        comparison = null;
        pool = mine.pool = new Pool(script, changed, modelOf);
        const count = Math.min(2, navigator.hardwareConcurrency || 1);
        const info = await pool.open({ source: opened, dropped, wasm }, count);
        if (opening !== mine) return pool.end();
        shown = Object.assign(mine, { size, info, facts: new Facts(info.length) });
        if (originals && streams.indexOf(stream) < (config.compare.streams || 1)) {
            comparison = new Comparison(originals, info.length, config.compare);
        }
        start();
    } catch (error) {
        if (pool) pool.end();
        if (opening !== mine) return;
        problem = error;
    }
    delete byId("grid").dataset.state;
    tellNotes();
    tellStatus();
}

/** A stream is open: show it, then learn of each image. */
function start() {
    const { pool, info, facts } = shown;
    byId("legend").hidden = !comparison;
    if (comparison) {
        pool.arrived = (number, pixels) => comparison.measure(number, pixels);
        facts.psnr = comparison.psnr;
        pool.background = () => comparison.another();
    }
    byId("query").value = "";
    byId("query").hidden = info.length < 2;
    for (const id of ["label", "model", "quality"]) fill(byId(id), []);
    fillOrders();
    if (!isZoomed) {
        const three = window.innerWidth < 500 ? 3 : 2;
        grid.zoom = comparison ? three : FEW.find(([count]) => info.length <= count)[1];
    }
    grid.show(null, info.length);
    const asked = /^#(\d+)$/.exec(location.hash);
    if (asked && Number(asked[1]) < info.length) {
        grid.go(Number(asked[1]));
        one.open(Number(asked[1]));
    }
    changed();
    if (comparison) setTimeout(rank, 1000);
}

async function learn(mine) {
    const { pool, facts, info } = mine;
    if (mine.isLearning) return;
    mine.isLearning = true;
    try {
        for (let from = 0; from < facts.most; from += CHUNK) {
            const to = Math.min(from + CHUNK, facts.most);
            const found = await pool.call("facts", { from, to });
            if (shown !== mine) return;
            facts.add(from, found);
            for (const fault of found.faults) remark(told(fault));
            if (from === 0 || to === facts.most) fillFilters();
            changed(true);
        }
        if (facts.most < info.length) {
            remark(`Names, labels and sizes are shown, filtered and sorted of the first ${
                written(facts.most)} images.`);
        }
    } catch (error) {
        remark(`Names, labels and sizes are not all known: ${told(error)}`);
    }
    if (shown === mine && isFiltered()) reorder();
}

/** The worst first, as far as they are known: again and again while nobody has scrolled. */
function rank() {
    if (!shown || !comparison || byId("sort").value !== "psnr") return;
    const finished = comparison.done === comparison.numbers.length;
    if (grid.top === 0 && grid.current < 0) reorder();
    if (!finished) setTimeout(rank, 1000);
}

// filters and order

const wish = () => Object.fromEntries(
    ["query", "label", "model", "quality", "sort"].map((id) => [id, byId(id).value]));
const isFiltered = () => Object.values(wish()).some((value) => value && value !== "number");

function fillOrders() {
    const { facts } = shown;
    const orders = [["number", "By number"], ["bytes", "Most bytes first"]];
    if (facts.labels.length) orders.push(["label", "By label"]);
    if (comparison) orders.unshift(["psnr", "Worst first"]);
    fill(byId("sort"), shown.info.length > 1 ? orders : []);
}

/** How much there is to tell in notes. */
const faults = () => shown.pool.damage.size + lackingOnes().length + Number(shown.pool.unmade > 0);

/** Models that are needed and neither in the page nor dropped. */
function lackingOnes() {
    return [...shown.pool.models.values()]
        .filter(({ hash, present }) => !present && !isCarried(hash));
}

/** Decode what may be damaged, and list what is, again and again while nobody has scrolled. */
function seek() {
    if (!shown || byId("quality").value !== "damaged") return;
    const { pool } = shown;
    pool.suspect();
    if (grid.top === 0 && grid.current < 0 && shown.pool.damaged.size !== damagedTold) reorder();
    else seeking = setTimeout(seek, SEEK_MS);
}

function fillFilters() {
    if (!shown) return;
    const options = shown.facts.options(shown.pool.damaged.size || shown.pool.damage.size);
    for (const [id, list] of Object.entries(options)) fill(byId(id), list);
    fillOrders();
}

function reorder() {
    if (!shown) return;
    const order = isFiltered() ? shown.facts.order(wish(), shown.pool.damaged) : null;
    grid.show(order, shown.info.length);
    tellStatus();
    damagedTold = shown.pool.damaged.size;
    clearTimeout(seeking);
    seeking = setTimeout(seek, SEEK_MS);
}

// words

function tellStatus() {
    const text = statusOf({ shown, problem, comparison, grid });
    if (byId("status").textContent !== text) byId("status").textContent = text;
    byId("zoom").textContent = `${grid.zoom}\u00d7`;
}

function remark(text) {
    remarks.push(text);
    tellNotes();
}

function tellNotes() {
    const notes = [];
    const note = (...parts) => notes.push(element("p", { class: "note" }, ...parts));
    if (config.note) note(visible(config.note));
    if (problem) note(problem.kind ? "This stream cannot be shown. " : "", told(problem));
    for (const text of remarks) note(text);
    const needed = problem && problem.modelHash;
    const lacking = shown ? lackingOnes() : needed ? [{ hash: needed, name: null }] : [];
    const damage = shown ? [...shown.pool.damage.values()] : [];
    faultsTold = shown ? faults() : 0;
    for (const model of lacking) {
        const file = `${model.name || "NAME"}-${model.hash.slice(0, 8)}.safetensors`;
        const choose = element("button", { type: "button" }, "choose it");
        choose.onclick = () => byId("files").click();
        const name = model.name ? isolated(`${model.name} `) : "";
        note("The model ", name, element("code", {}, model.hash),
            " is not in this page. To see the images that need it, drop its file (",
            isolated(file), ") onto the page, or ", choose, ".");
    }
    for (const line of damageLines(damage)) note(line);
    const unmade = shown && [...shown.pool.errors.values()].find(isMemory);
    if (unmade) note(told(unmade));
    if (shown && !shown.info.length) note("No images: the collection is empty.");
    byId("notes").replaceChildren(...notes);
}

// files

/** Take files that were dropped or chosen: streams, and models.  Shows the first stream. */
async function take(files) {
    remarks = [];
    const before = streams.length;
    for (const file of files) {
        try {
            if (await isModel(file)) await takeModel(file);
            else streams.push({ name: file.name, file });
        } catch (error) { // a folder, say
            remark(`${visible(file.name)} cannot be read: ${error.message}`);
        }
    }
    fillStreams();
    if (streams.length > before) await choose(before);
    else fillFilters();
    tellNotes();
}

async function takeModel(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    try {
        if (shown) await shown.pool.addModel(bytes);
        dropped.push(bytes);
        changed(true);
        if (shown) grid.update(); // what lacked it is wanted again
        if (!problem) return;
        await choose(Number(byId("stream").value) || 0); // it may have been the one that lacked
        if (problem && problem.kind === "BadModel") throw problem;
    } catch (error) {
        if (dropped.at(-1) === bytes) dropped.pop();
        remark(`${visible(file.name)} is not a model that can be used: ${told(error)}`);
    }
}

const fillStreams = () => fill(byId("stream"), streams.map(({ name }, k) => [String(k), name]));

function choose(number) {
    byId("stream").value = String(number);
    const { name } = streams[number];
    const title = visible(number === 0 ? config.title || name : name);
    byId("title").textContent = document.title = title;
    ready = openStream(streams[number]);
    return ready;
}

// controls

startTheme(byId("theme"));
byId("add").onclick = () => byId("files").click();
byId("files").onchange = (event) => {
    take([...event.target.files]);
    event.target.value = "";
};
byId("stream").onchange = (event) => choose(Number(event.target.value));
for (const [id, step] of [["smaller", -1], ["larger", 1]]) {
    byId(id).onclick = () => {
        isZoomed = true;
        grid.setZoom(step);
    };
}
byId("scale").onchange = (event) => {
    comparison.scale(Number(event.target.value));
    changed(true);
};
byId("tools").onsubmit = (event) => event.preventDefault();
for (const id of ["label", "model", "quality", "sort"]) byId(id).onchange = reorder;
let typing = 0;
byId("query").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(reorder, 120);
};
document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /INPUT|SELECT/.test(event.target.tagName) || byId("one").open) return;
    event.preventDefault();
    byId("query").focus();
});
const dragged = (on) => document.body.classList.toggle("dragged", on);
for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
        event.preventDefault();
        dragged(true);
    });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) dragged(false); });
document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragged(false);
    take([...event.dataTransfer.files]);
});

// start

fill(byId("scale"), [["32", "\u00b132"], ["8", "\u00b18"], ["128", "\u00b1128"]]);
fillStreams();
if (streams.length) choose(0);
else tellNotes();

/** For scripts and tests. */
window.aez = {
    version: config.version,
    /** Settles when the chosen stream is open, or is known not to be readable. */
    get ready() { return ready; },
    take,
    choose,
    images: (from, to) => shown.pool.images(from, to),
    /** What the page shows. */
    get state() {
        return {
            name: shown ? shown.name : "",
            length: shown ? shown.info.length : 0,
            known: shown ? shown.facts.known : 0,
            shown: grid.count,
            decoded: shown ? shown.pool.decoded : 0,
            damaged: shown ? shown.pool.errors.size : 0,
            missing: shown ? lackingOnes() : [],
            complete: Boolean(shown) && grid.complete,
            visibleMs,
            problem,
        };
    },
};
