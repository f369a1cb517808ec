// The grid: all images, of which only the rows in sight exist.
//
// READ ME FIRST
// - A row is one canvas in which a pixel is a pixel of an image; the browser enlarges it by a whole
//   factor of device pixels (`image-rendering: pixelated`), so nothing is blurred.
// - Rows are placed in a high, empty element, and the browser scrolls.  Browsers cap the height of
//   an element, so above MAX_HEIGHT the scroll position is a proportion, and wheel and keys move
//   `top`, the true place, by themselves.
// - A position is a place in the order that is shown; a number is that of the image.
// - A thousand rows pass while one scrolls, so what leaves the screen is used again: canvases,
//   pictures, captions.  As garbage they would take more memory than all images.
// - For screen readers the grid has ARIA rows and cells of what is in sight; focus stays on the
//   grid, and aria-activedescendant names the current cell.

import { element, visible } from "./page_text.js";

const SIDE = 28;
const MAX_HEIGHT = 4e6; // CSS pixels; Firefox ends at 17.9 million, less on zoomed pages
const ZOOMS = [1, 2, 3, 4, 6, 8, 12];
const CAPTION_FROM = 50; // CSS pixels of a tile's width: narrower ones have no caption
const EMPTY = 0x30808080; // ABGR: not decoded yet
const HATCH = [0xff3a3aa8, 0xff2a2a58]; // damaged
const ABSENT = [0xff8c8880, 0xff6a6660]; // its model is not here
export const GREY = Uint32Array.from({ length: 256 }, (_, v) => (0xff000000 | (v * 0x10101)) >>> 0);

/** Paint 784 values, through a table of colours, at column x of a picture. */
function paint(out, width, x, values, colours) {
    for (let y = 0, i = 0; y < SIDE; y++) {
        const start = y * width + x;
        for (let k = 0; k < SIDE; k++) out[start + k] = colours[values[i++]];
    }
}

/** Paint what stands for an image that is not there: yet, or at all. */
function paintNone(out, width, x, panel) {
    const [line, ground] = panel ? (panel.absent ? ABSENT : HATCH) : [EMPTY, EMPTY];
    for (let y = 0; y < SIDE; y++) {
        for (let k = 0; k < SIDE; k++) out[y * width + x + k] = (k + y) % 7 < 2 ? line : ground;
    }
}

/** Make these parts, [tag, text], the content of a node. What is there already is used again. */
function writeParts(node, parts) {
    parts.forEach(([tag, text], k) => {
        const before = node.children[k];
        if (before?.localName === tag) {
            before.firstChild.data = text;
            return;
        }
        const made = element(tag, {}, text);
        if (before) before.replaceWith(made);
        else node.append(made);
    });
    while (node.children.length > parts.length) node.lastChild.remove();
}

/** Paint one panel of an image, as `source.panel` gives it, at column x. */
export function paintPanel(out, width, x, panel) {
    if (panel && panel.values) paint(out, width, x, panel.values, panel.colours);
    else paintNone(out, width, x, panel);
}

export class Grid {
    /**
     * @param {HTMLElement} root  scrolls, has the focus
     * @param {object} source  what there is to show:
     *   panels: pictures side by side for each image;
     *   panel(number, k) -> {values, colours} | {absent: is its model missing?} | null: not yet;
     *   caption(number, width) -> parts, each [tag, text]; describe(number) -> text;
     *   want(inSight, ahead); open(position); moved(position)
     */
    constructor(root, source) {
        this.root = root;
        this.source = source;
        this.order = null; // Uint32Array, or null: all images by number
        this.count = 0;
        this.zoom = 2;
        this.current = -1; // position
        this.top = 0; // CSS pixels
        this.down = true; // the way of the last scroll
        this.rows = new Map();
        this.layer = element("div", { class: "layer", role: "presentation" });
        this.ring = element("div", { class: "ring", "aria-hidden": "true" });
        this.space = element("div", { class: "space", role: "presentation" });
        this.space.append(this.layer, this.ring);
        root.replaceChildren(this.space);
        root.addEventListener("scroll", () => this.scrolled(), { passive: true });
        root.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
        root.addEventListener("keydown", (event) => this.key(event));
        root.addEventListener("click", (event) => {
            const position = this.hit(event);
            if (position < 0) return;
            this.go(position);
            source.open(position);
        });
        root.addEventListener("pointermove", (event) => {
            const position = event.pointerType === "touch" ? -1 : this.hit(event);
            root.title = position < 0 ? "" : visible(source.describe(this.number(position)));
        });
        new ResizeObserver(() => this.layout()).observe(root);
    }

    number(position) {
        return this.order ? this.order[position] : position;
    }

    /** Show other images, or the same in another order. */
    show(order, count) {
        const kept = this.current < 0 ? -1 : this.number(this.current);
        this.order = order;
        this.count = order ? order.length : count;
        this.current = kept < 0 ? -1 : order ? order.indexOf(kept) : kept;
        this.top = 0;
        this.root.scrollTop = 0;
        this.layout(true);
    }

    setZoom(step) {
        const at = ZOOMS.indexOf(this.zoom) + step;
        this.zoom = ZOOMS[Math.min(Math.max(at, 0), ZOOMS.length - 1)];
        this.layout();
    }

    /** Measure everything anew; what was at the top stays there. */
    layout(fresh = false) {
        const anchor = fresh || !this.pitch ? 0
            : Math.round(this.top / this.pitch) * this.columns;
        const dpr = this.dpr = window.devicePixelRatio || 1;
        const { panels } = this.source;
        this.margin = this.root.clientWidth < 500 ? 8 : 16;
        const space = Math.floor((this.root.clientWidth - 2 * this.margin) * dpr);
        this.tile = SIDE * panels + panels - 1; // image pixels, as the next two
        const factor = Math.max(1, Math.min(
            Math.round(this.zoom * dpr), Math.floor(space / this.tile)));
        this.gap = panels > 1 ? 5 : factor < 2 * dpr + 1 ? 2 : 1;
        const fit = Math.floor((space / factor + this.gap) / (this.tile + this.gap));
        this.columns = Math.max(1, fit);
        this.px = factor / dpr; // CSS pixels of an image's pixel
        this.captioned = this.tile * this.px >= CAPTION_FROM;
        this.picture = SIDE * this.px;
        const below = this.captioned ? Math.round(22 * dpr) : Math.max(this.gap * factor, 2);
        this.pitch = (SIDE * factor + below) / dpr;
        this.lines = Math.ceil(this.count / this.columns);
        this.total = this.lines * this.pitch + 2 * this.margin;
        this.height = this.root.clientHeight;
        this.scaled = this.total > MAX_HEIGHT;
        this.space.style.height = `${Math.min(this.total, MAX_HEIGHT)}px`;
        this.root.setAttribute("aria-rowcount", this.lines);
        this.root.setAttribute("aria-colcount", this.columns);
        this.layer.replaceChildren();
        this.rows.clear();
        this.moveTo(fresh ? 0 : Math.floor(anchor / this.columns) * this.pitch);
        this.source.moved(this.current);
    }

    get end() {
        return Math.max(0, this.total - this.height);
    }

    /** Scroll to a true place. */
    moveTo(top) {
        this.down = top >= this.top;
        this.top = Math.min(Math.max(0, top), this.end);
        const low = this.root.scrollHeight - this.height;
        const at = this.scaled ? this.top / this.end * low : this.top;
        this.root.scrollTop = at;
        this.last = this.root.scrollTop;
        this.update();
    }

    scrolled() {
        const at = this.root.scrollTop;
        if (at === this.last) return;
        const step = at - this.last;
        this.last = at;
        this.down = step > 0;
        const low = this.root.scrollHeight - this.height;
        // small steps are a finger's: they move by as much as it did
        if (!this.scaled) this.top = at;
        else if (at <= 0 || at >= low) this.top = at <= 0 ? 0 : this.end;
        else if (Math.abs(step) < this.height / 2) this.top += step;
        else this.top = at / low * this.end;
        this.top = Math.min(Math.max(0, this.top), this.end);
        if (this.scaled) {
            clearTimeout(this.settling); // then the bar stands where `top` is again
            this.settling = setTimeout(() => this.moveTo(this.top), 200);
        }
        this.update();
    }

    wheeled(event) {
        if (!this.scaled || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        const unit = [1, this.pitch, this.height][event.deltaMode];
        this.moveTo(this.top + event.deltaY * unit);
    }

    /** Make the rows in sight and those around; say what is to be decoded. */
    update() {
        const first = Math.floor((this.top - this.margin) / this.pitch);
        const last = Math.ceil((this.top - this.margin + this.height) / this.pitch);
        const screen = last - first;
        const more = Math.ceil(screen / 2);
        const from = Math.max(0, first - more);
        const to = Math.min(this.lines, last + more);
        const spare = [];
        for (const [line, row] of this.rows) {
            if (line >= from && line < to) continue;
            this.rows.delete(line);
            spare.push(row);
        }
        for (let line = from; line < to; line++) {
            if (!this.rows.has(line)) this.rows.set(line, this.fill(spare.pop(), line));
            this.place(this.rows.get(line).root, line);
        }
        for (const row of spare) row.root.remove();
        this.mark();
        const clip = (line) => Math.min(Math.max(0, line), this.lines);
        const numbers = (begin, stop) => {
            const found = [];
            const end = Math.min(clip(stop) * this.columns, this.count);
            for (let i = clip(begin) * this.columns; i < end; i++) found.push(this.number(i));
            return found;
        };
        const below = numbers(last, last + (this.down ? 3 : 1) * screen);
        const above = numbers(first - (this.down ? 1 : 3) * screen, first).reverse(); // nearest first
        const ahead = this.down ? [...below, ...above] : [...above, ...below];
        this.source.want(numbers(first, last), ahead);
    }

    place(node, line) {
        let y = this.margin + line * this.pitch;
        if (this.scaled) y += this.root.scrollTop - this.top;
        node.style.transform = `translate(${this.margin}px, ${y}px)`;
    }

    fill(spare, line) {
        const row = spare || {};
        if (!spare) {
            row.canvas = element("canvas", { "aria-hidden": "true", height: SIDE });
            row.root = element("div", { class: "row", role: "row" }, row.canvas);
            row.cells = [];
            this.layer.append(row.root);
        }
        row.from = line * this.columns;
        row.to = Math.min(row.from + this.columns, this.count);
        row.root.setAttribute("aria-rowindex", line + 1);
        const width = (row.to - row.from) * (this.tile + this.gap) - this.gap;
        if (row.canvas.width !== width) row.canvas.width = width;
        row.canvas.style.width = `${width * this.px}px`;
        row.canvas.style.height = `${this.picture}px`;
        if (row.image?.width !== width) { // else used again: scrolling makes no garbage
            row.image = row.canvas.getContext("2d").createImageData(width, SIDE);
            row.words = new Uint32Array(row.image.data.buffer);
        }
        this.draw(row, true);
        this.label(row);
        return row;
    }

    /** Paint the images of a row: all of them, or those that have come since. */
    draw(row, all) {
        const missing = [];
        const width = row.image.width;
        if (all) row.failed = false;
        for (let place = 0; place < row.to - row.from; place++) {
            if (!all && !row.missing.includes(place)) continue;
            const number = this.number(row.from + place);
            for (let k = 0; k < this.source.panels; k++) {
                const x = place * (this.tile + this.gap) + k * (SIDE + 1);
                const panel = this.source.panel(number, k);
                if (panel || all) paintPanel(row.words, width, x, panel);
                if (!panel) missing.push(place);
                else if (!panel.values) row.failed = true;
            }
        }
        const isNew = all || missing.length < row.missing.length;
        row.missing = missing;
        if (isNew) row.canvas.getContext("2d").putImageData(row.image, 0, 0);
    }

    /** The cells of a row: those with a caption, or only the current one. */
    label(row) {
        let count = 0;
        for (let position = row.from; position < row.to; position++) {
            if (!this.captioned && position !== this.current) continue;
            row.cells[count] ||= element("div", { class: "cell", role: "gridcell" });
            this.labelCell(row.cells[count++], position, position - row.from);
        }
        row.cells.length = count;
        if (row.root.childElementCount === 1 + count) return;
        row.root.replaceChildren(row.canvas, ...row.cells);
    }

    labelCell(cell, position, column) {
        const number = this.number(position);
        const width = this.tile * this.px;
        cell.id = `cell-${position}`;
        cell.setAttribute("aria-colindex", column + 1);
        cell.setAttribute("aria-label", visible(this.source.describe(number)));
        cell.setAttribute("aria-selected", position === this.current);
        cell.style.left = `${column * (this.tile + this.gap) * this.px}px`;
        cell.style.width = `${width}px`;
        cell.style.paddingTop = `${this.picture}px`;
        writeParts(cell, this.captioned ? this.source.caption(number, width) : []);
    }

    /** Images have come, or facts: draw what was missing.  all: everything. */
    refresh(all = false) {
        for (const row of this.rows.values()) {
            if (!row.missing.length && !all) continue;
            this.draw(row, all);
            if (all || row.failed) this.label(row);
        }
    }

    /** Whether all images in sight are there. */
    get complete() {
        const line = (y) => Math.floor((y - this.margin) / this.pitch);
        const last = Math.min(line(this.top + this.height), this.lines - 1);
        for (let k = Math.max(0, line(this.top)); k <= last; k++) {
            if (!this.rows.has(k) || this.rows.get(k).missing.length) return false;
        }
        return true;
    }

    mark() {
        const line = Math.floor(this.current / this.columns);
        const shown = this.current >= 0 && this.rows.has(line);
        this.ring.hidden = !shown;
        if (!shown) return this.root.removeAttribute("aria-activedescendant");
        this.root.setAttribute("aria-activedescendant", `cell-${this.current}`);
        this.place(this.ring, line);
        const column = this.current % this.columns;
        this.ring.style.left = `${column * (this.tile + this.gap) * this.px}px`;
        this.ring.style.width = `${this.tile * this.px}px`;
        this.ring.style.height = `${this.picture}px`;
    }

    /** Make a position the current one, and bring it into sight. */
    go(position) {
        const before = this.current;
        this.current = Math.min(Math.max(0, position), this.count - 1);
        if (this.current < 0) return;
        const y = Math.floor(this.current / this.columns) * this.pitch;
        const bottom = y + this.pitch + 2 * this.margin - this.height;
        if (y < this.top) this.moveTo(y);
        else if (bottom > this.top) this.moveTo(bottom);
        for (const at of [before, this.current]) {
            const row = this.rows.get(Math.floor(at / this.columns));
            if (at >= 0 && row) this.label(row);
        }
        this.mark();
        this.source.moved(this.current);
    }

    key(event) {
        if (event.ctrlKey || event.metaKey || event.altKey || !this.count) return;
        const page = this.columns * Math.max(1, Math.floor(this.height / this.pitch));
        const steps = {
            ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
            PageUp: -page, PageDown: page, Home: -this.count, End: this.count,
        };
        if (event.key in steps) {
            const step = steps[event.key];
            const to = this.current + step;
            // up and down stay in their column: no step beyond the first or last line
            const beyond = /^Arrow(Up|Down)/.test(event.key) && (to < 0 || to >= this.count);
            if (this.current < 0 && Math.abs(step) !== this.count) this.go(this.firstInSight());
            else if (!beyond) this.go(to);
        } else if (event.key === "Enter" || event.key === " ") {
            if (this.current < 0) this.go(this.firstInSight());
            this.source.open(this.current);
        } else if (event.key === "+" || event.key === "-") this.setZoom(event.key === "+" ? 1 : -1);
        else return;
        event.preventDefault();
    }

    firstInSight() {
        return Math.ceil(this.top / this.pitch) * this.columns;
    }

    /** The position under a pointer, or -1. */
    hit({ clientX, clientY }) {
        const box = this.root.getBoundingClientRect();
        const x = (clientX - box.left - this.margin) / this.px;
        const y = clientY - box.top + this.top - this.margin;
        const column = Math.floor(x / (this.tile + this.gap));
        const position = Math.floor(y / this.pitch) * this.columns + column;
        const inside = x >= 0 && y >= 0 && column < this.columns &&
            x - column * (this.tile + this.gap) < this.tile && y % this.pitch < this.pitch;
        return inside && position < this.count ? position : -1;
    }
}
