// What the page writes: numbers, names, sentences; and the bytes that lie in the page as text.
//
// Names, labels and messages come from strangers.  They only ever become text nodes, each in an
// element of its own direction (<bdi>), and what cannot be seen is made visible first.

const BACK = new Uint8Array(0x2123); // character of windows-1252 -> byte; U+2122 is the last
new TextDecoder("windows-1252")
    .decode(Uint8Array.from({ length: 256 }, (_, byte) => byte))
    .split("")
    .forEach((character, byte) => { BACK[character.charCodeAt(0)] = byte; });

/**
 * The bytes of a `<script type="application/x-aez" data-offset="K">`: each stands as the character
 * byte + K, or as "=" and the character byte + K + 64.  With `data-deflated` they are those of a
 * raw deflate stream, and inflated here.  The element goes: it was a copy.
 * @param {HTMLElement} element
 * @returns {Promise<Uint8Array>}
 */
export async function blobBytes(element) {
    const text = element.textContent;
    const { offset, deflated } = element.dataset;
    const bytes = new Uint8Array(text.length);
    let size = 0;
    for (let i = 0; i < text.length; i++) {
        let code = BACK[text.charCodeAt(i)];
        if (code === 0x3d) code = BACK[text.charCodeAt(++i)] - 64;
        bytes[size++] = code - offset; // an Uint8Array keeps the low 8 bits
    }
    element.remove();
    const packed = bytes.slice(0, size);
    if (deflated === undefined) return packed;
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
}

const IN_MEMORY = 16e6; // bytes; larger files stay where they are, and workers read parts of them

/**
 * Where the bytes of a stream are, for `open`: in the page, in a file that was dropped, or at a URL.
 * @param {(number) => Promise<Uint8Array>} blob  gives the bytes that lie in the page
 */
export async function sourceOf(stream, blob) {
    if (stream.url) return { opened: new URL(stream.url, location.href).href, size: stream.bytes };
    if (stream.file) {
        const { file } = stream;
        const small = file.size <= IN_MEMORY;
        return { opened: small ? new Uint8Array(await file.arrayBuffer()) : file, size: file.size };
    }
    const bytes = stream.data || await blob(stream.blob);
    stream.data = bytes instanceof Blob || bytes.length <= IN_MEMORY ? bytes : new Blob([bytes]);
    return { opened: stream.data, size: bytes.size || bytes.length };
}

/** Whether a file is a model: a length, then "{". */
export async function isModel(file) {
    const start = new Uint8Array(await file.slice(0, 9).arrayBuffer());
    return start[8] === 0x7b && !(start[0] === 0xae && start[1] === 0x5a);
}

// controls, formats (directions, joiners), lone surrogates, separators, and letters without a shape
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu;

/**
 * A text with what is invisible, or would turn its direction, written out: `<U+202E>` with angle
 * quotes.
 * @param {string} text
 * @returns {string}
 */
export function visible(text) {
    if (/^[ -~]*$/.test(text)) return text;
    return text.replace(UNSEEN, (found) => {
        const code = found.codePointAt(0).toString(16).toUpperCase();
        return `\u2039U+${code.padStart(4, "0")}\u203a`;
    });
}

const FORMATS = [0, 1].map((digits) => new Intl.NumberFormat("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
})); // made once: a thousand captions are written while one scrolls

/** `1,234`; with 0 or 1 digits after the point.  @param {number} value @returns {string} */
export function written(value, digits = 0) {
    return FORMATS[digits].format(value);
}

/** `1 image`, `1,234 images`.  @param {number} count @param {string} noun @returns {string} */
export function counted(count, noun) {
    return `${written(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** `1.7 MB`.  @param {number} bytes @returns {string} */
export function sized(bytes) {
    if (bytes < 1000) return counted(bytes, "byte");
    return bytes < 1e6 ? `${written(bytes / 1e3, 1)} kB` : `${written(bytes / 1e6, 1)} MB`;
}

/**
 * A new element.  Parts are texts, which stay texts, or nodes.
 * @param {string} tag
 * @param {Object<string, string>} attributes
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...parts) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...parts);
    return made;
}

/** A text of strangers: visible, and of its own direction.  @returns {HTMLElement} */
export function isolated(text) {
    return element("bdi", {}, visible(text));
}

/** Whether what is wrong is only that a model is not here. */
export function isAbsent(error) {
    return error.kind === "ModelNotFound";
}

/** Whether what is wrong is only that there was too little memory. */
export function isMemory(error) {
    return error.kind === "OutOfMemory";
}

/** An error of the decoder in a line.  @param {{kind: string, message: string}} error */
export function told(error) {
    return visible(error.kind ? `${error.kind}: ${error.message}` : error.message);
}

/**
 * Fill a <select>, keep what was chosen; hide it if there is nothing to choose.
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} options  values and texts
 */
export function fill(select, options) {
    const chosen = select.value;
    select.replaceChildren(...options.map(
        ([value, text]) => element("option", { value, dir: "auto" }, visible(text))));
    if (options.some(([value]) => value === chosen)) select.value = chosen;
    select.hidden = options.length < 2;
}
