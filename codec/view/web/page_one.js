// One image, large: its facts, its exact values, its file.

import { paintPanel } from "./page_grid.js";
import { byteText, qualityOf } from "./page_facts.js";
import { greyPng } from "./page_png.js";
import { element, isAbsent, isolated, told, written } from "./page_text.js";

const SIDE = 28;
const MAX_ZOOM = 16;
const SHOWN = { original: "Original", decoded: "Decoded", error: "Error" };
const STEPS = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};
const byId = (id) => document.getElementById(id);

/** A file name for an image: the last part of its name, without what file systems dislike. */
export function pngName({ name, number }) {
    const stem = name.split("/").pop().replace(/\.[a-z]{3,4}$/i, "").normalize()
        .replace(/[^\p{L}\p{N}_.-]+/gu, "_").replace(/^[._-]+/, "").slice(0, 80);
    return `${stem || `image-${String(number).padStart(5, "0")}`}.png`;
}

export class One {
    /**
     * @param {object} source  what the grid's source has, and:
     *   titles: of the panels; value(number, place) -> text; fact(number); error(number);
     *   notes(number) -> [name, text][]
     * @param {object} grid  Grid: previous and next go through its order
     */
    constructor(source, grid) {
        this.source = source;
        this.grid = grid;
        this.dialog = byId("one");
        this.at = null; // [x, y] of the pixel that is read
        byId("close").onclick = () => this.dialog.close();
        byId("previous").onclick = () => this.step(-1);
        byId("next").onclick = () => this.step(1);
        byId("save").onclick = () => this.save();
        this.dialog.addEventListener("keydown", (event) => this.key(event));
        this.dialog.addEventListener("click", (event) => {
            if (event.target === this.dialog) this.dialog.close(); // beside it
        });
        this.dialog.addEventListener("close", () => grid.root.focus());
        window.addEventListener("resize", () => this.refresh());
    }

    open(position) {
        if (position < 0 || position >= this.grid.count) return;
        this.at = null;
        this.position = position;
        this.number = this.grid.number(position);
        if (!this.dialog.open) this.dialog.showModal();
        this.source.want([this.number]);
        this.refresh();
    }

    step(by) {
        const to = this.position + by;
        if (to < 0 || to >= this.grid.count) return;
        this.grid.go(to);
        this.open(to);
    }

    key(event) {
        const [x, y] = STEPS[event.key] || [0, 0];
        if (!x && !y || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        if (event.shiftKey) {
            const next = (value) => Math.min(Math.max(0, value), SIDE - 1);
            const [column, row] = this.at || [SIDE / 2 - x, SIDE / 2 - y];
            byId("value").setAttribute("aria-live", "polite");
            this.read([next(column + x), next(row + y)]);
        } else if (x) this.step(x);
    }

    /** Draw all of it again, if it is open. */
    refresh() {
        if (!this.dialog.open) return;
        const { source, number } = this;
        const fact = source.fact(number);
        const error = source.error(number);
        byId("one-title").replaceChildren(
            fact.name ? isolated(fact.name) : `Image ${written(number)}`);
        byId("previous").disabled = this.position === 0;
        byId("next").disabled = this.position === this.grid.count - 1;
        byId("pictures").replaceChildren(...source.titles.map((_, k) => this.picture(k, error)));
        const { coding } = fact;
        const facts = [["Number", written(number)]];
        if (fact.label) facts.push(["Label", isolated(fact.label)]);
        if (fact.bytes !== null) facts.push(["Size", byteText(fact.bytes)]);
        if (coding) facts.push(["Coding", qualityOf(coding)]);
        if (coding && coding.model) {
            const hash = element("code", {}, coding.model);
            facts.push(["Model", isolated(coding.modelName || "unknown"), hash]);
        }
        facts.push(...source.notes(number));
        if (error) facts.push([isAbsent(error) ? "Not shown" : "Damaged", told(error)]);
        byId("facts").replaceChildren(...facts.flatMap(([name, ...parts]) => [
            element("dt", {}, name),
            element("dd", {}, ...parts.flatMap((part, k) => (k ? [" ", part] : [part]))),
        ]));
        byId("save").disabled = !source.pixels(number);
        this.read(this.at);
    }

    picture(k, error) {
        const canvas = element("canvas", { width: SIDE, height: SIDE });
        const context = canvas.getContext("2d");
        const image = context.createImageData(SIDE, SIDE);
        const colours = new Uint32Array(image.data.buffer);
        const panel = this.source.panel(this.number, k);
        paintPanel(colours, SIDE, 0, panel);
        context.putImageData(image, 0, 0);
        const { clientWidth, clientHeight } = document.documentElement;
        const dpr = window.devicePixelRatio || 1;
        const wide = Math.min(clientWidth, 1100) - (clientWidth > 700 ? 330 : 60);
        const space = Math.min(wide / this.source.panels, clientHeight - 150);
        const factor = Math.max(2, Math.floor(Math.min(space / SIDE, MAX_ZOOM) * dpr)) / dpr;
        const size = `${SIDE * factor}px`;
        canvas.style.width = canvas.style.height = size;
        const title = SHOWN[this.source.titles[k]];
        canvas.setAttribute("role", "img");
        const words = `${title || "Image"} ${written(this.number)}, 28 by 28 pixels`;
        canvas.setAttribute("aria-label", words);
        const cross = element("div", { class: "cross", hidden: "" });
        cross.style.width = cross.style.height = `${factor}px`;
        const frame = element("div", { class: "frame" }, canvas, cross);
        const follow = (event) => {
            const box = canvas.getBoundingClientRect();
            const place = [event.clientX - box.left, event.clientY - box.top]
                .map((value) => Math.min(Math.max(0, Math.floor(value / factor)), SIDE - 1));
            byId("value").removeAttribute("aria-live");
            this.read(place);
        };
        frame.addEventListener("pointermove", follow);
        frame.addEventListener("pointerdown", follow);
        const parts = title ? [element("figcaption", {}, title)] : [];
        if (error && error.kind) frame.classList.add("damaged");
        return element("figure", {}, ...parts, frame);
    }

    /** Say what the value at a place is, and mark the place. */
    read(at) {
        this.at = at;
        const line = byId("value");
        for (const cross of document.querySelectorAll(".cross")) {
            cross.hidden = !at;
            if (!at) continue;
            const size = parseFloat(cross.style.width);
            cross.style.transform = `translate(${at[0] * size}px, ${at[1] * size}px)`;
        }
        const value = at && this.source.value(this.number, at[1] * SIDE + at[0]);
        if (!value) line.replaceChildren("Point at a pixel to read its value.");
        else {
            line.replaceChildren(element("b", {}, value), ` row ${at[1]}, column ${at[0]}`);
        }
    }

    save() {
        const bytes = greyPng(this.source.pixels(this.number));
        const href = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
        element("a", { href, download: pngName(this.source.fact(this.number)) }).click();
        setTimeout(() => URL.revokeObjectURL(href), 10000);
    }
}
