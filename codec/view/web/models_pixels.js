/**
 * The lossless coder, which predicts each pixel, on the kernels: the twin of
 * codec/model/{pixels,pixels_native}.py. FORMAT.md 8. One call of a kernel decodes all pixels of a
 * batch; what comes before them in a message is read here.
 */
import { ACTIVATION_MAX, badModel, checkRange, range } from "./models_file.js";
import { Packer, padded } from "./models_memory.js";
import { Decoder, Lanes, PIXELS, faultOf, inBatches, withoutZeros } from "./models_messages.js";

const WINDOW = 84; // pixels that are inputs as they are
const NEIGHBOURS = 12; // whose values have embeddings
const LINKED = 4; // whose links reach the pixel
const FIRST_MAX = 1 << 22; // bounds of first layers, of what a hidden layer adds, of logits
const ADDED_MAX = 2 * ACTIVATION_MAX;
const FLAG_MAX = 511;
const LOGIT_MAX = 1 << 15;
const EXP_ENTRIES = 512;
const MAX_PALETTES = 256;
const MAX_PALETTE_COST = 1023;
const TOTAL = 1 << 16;
const LOSSLESS_QUALITY = 100;
const STORED_CDF = [0, TOTAL - 16, TOTAL];
const BYTE_CDF = Uint32Array.from({ length: 257 }, (_, byte) => 256 * byte);
// Of an image, at most: 2 for each pixel, more than the bytes of a stored one, and its head.
const SYMBOLS = 2 * PIXELS + 8;
const BATCH_IMAGES = 64;
const MAX_SCRATCH_BYTES = 1 << 28; // of a batch; a model that needs more for 16 images is refused

export class Pixels {
    #kernels;
    #unstored;
    #model;
    #paletteCdf;
    #batch;

    /**
     * Take all tensors of a bundle, and lay them out. Throws BadModel.
     * @param {(bytes: Uint8Array) => Uint8Array} unstored stored bytes -> 784 pixels (FORMAT.md
     *     2.3); throws if damaged
     */
    constructor(bundle, kernels, unstored) {
        this.#kernels = kernels;
        this.#unstored = unstored;
        this.lossless = true;
        const packer = new Packer(kernels);
        const flag = flagNet(bundle);
        const value = valueNet(bundle);
        this.multiplyAdds = bundle.multiplyAdds;
        const palettes = value.palette.shape[0];
        const freq = bundle.pop("palette.freq", [palettes]).data;
        const costs = bundle.pop("palette.costs.table", [palettes, 256]).data;
        this.#paletteCdf = new Float64Array(palettes + 1);
        freq.forEach((each, i) => (this.#paletteCdf[i + 1] = this.#paletteCdf[i] + each));
        const complete = this.#paletteCdf[palettes] === TOTAL && range(freq)[0] >= 1;
        if (palettes > MAX_PALETTES || !complete) {
            throw badModel("palette.freq: wanted at most 256 palettes, of sum 2**16, no zeros");
        }
        checkRange("palette.costs.table", costs, 0, MAX_PALETTE_COST);
        bundle.finish();
        const images = Math.floor(MAX_SCRATCH_BYTES / scratchBytes(flag, value));
        if (images < 16) throw badModel("the model needs more memory than there is");
        this.#batch = Math.min(BATCH_IMAGES, images);
        this.#model = packer.structure([...flagWords(flag, packer), ...valueWords(value, packer)]);
    }

    /** Throw RangeError unless streams of this model can have this quality. */
    checkQuality(quality) {
        const nearLossless = quality >= 129 && quality <= 192;
        if (!Number.isInteger(quality) || (quality !== LOSSLESS_QUALITY && !nearLossless)) {
            throw new RangeError(`a lossless model has no quality ${quality}`);
        }
    }

    /** See `Model.decode`. All qualities are decoded alike. */
    decode(quality, messages, counts) {
        return inBatches(this.#kernels, messages, counts, this.#batch, (some, batch, pixels) =>
            this.#decodeBatch(some, batch, pixels),
        );
    }

    /** See `inBatches`. */
    #decodeBatch(messages, { group, images: n }, pixels) {
        const kernels = this.#kernels;
        const heads = messages.map((message, k) =>
            this.#head(message, Math.min(group, n - k * group)),
        );
        const [active, palette, out] = [n, 4 * n, n * PIXELS].map((bytes) => kernels.take(bytes));
        const lanes = new Lanes(
            kernels,
            heads.map(({ decoder }) => decoder),
        );
        heads.forEach(({ stored, palettes, fault }, k) => {
            palettes.forEach((number, i) => {
                kernels.u8[active + k * group + i] = fault || stored[i] ? 0 : 1;
                kernels.i32[palette / 4 + k * group + i] = number;
            });
        });
        kernels.call(
            "decode_pixels",
            this.#model,
            n,
            group,
            active,
            palette,
            lanes.bytes,
            lanes.at,
            out,
        );
        pixels.set(kernels.u8.subarray(out, out + n * PIXELS));
        const ends = lanes.finish();
        return heads.map(({ stored, fault }, k) => {
            stored.forEach((image, i) => image && pixels.set(image, (k * group + i) * PIXELS));
            return (
                fault ??
                faultOf(ends[k], pixels.subarray(k * group * PIXELS, (k + 1) * group * PIXELS))
            );
        });
    }

    /**
     * What comes before the pixels in a message of n images, FORMAT.md 8.1.
     * @returns {{decoder: Decoder, stored: (Uint8Array | null)[], palettes: number[], fault: string
     *     | null}}
     */
    #head(message, n) {
        const decoder = new Decoder(withoutZeros(message));
        const head = {
            decoder,
            stored: Array(n).fill(null),
            palettes: Array(n).fill(0),
            fault: null,
        };
        if (decoder.message.length > 2 * SYMBOLS * n + 4) {
            decoder.message = message.subarray(0, 0);
            return { ...head, fault: "a message is longer than any that is valid" };
        }
        const isStored = head.stored.map(() => decoder.decode(STORED_CDF) === 1);
        try {
            isStored.forEach((is, i) => {
                if (is) head.stored[i] = this.#storedImage(decoder);
            });
        } catch (error) {
            return { ...head, fault: `a stored image is damaged: ${error.message}` };
        }
        isStored.forEach((is, i) => {
            if (!is) head.palettes[i] = decoder.decode(this.#paletteCdf);
        });
        return head;
    }

    #storedImage(decoder) {
        const length = 256 * decoder.decode(BYTE_CDF) + decoder.decode(BYTE_CDF);
        if (length > PIXELS) throw new RangeError(`it has ${length} bytes`);
        return this.#unstored(Uint8Array.from({ length }, () => decoder.decode(BYTE_CDF)));
    }
}

// ---- The two networks: their tensors, checked, then their structures as in codec/kernels/pixels.h

function sumsOf(bundle, name, width = null) {
    const ink = bundle.pop(`${name}.ink.table`, [PIXELS, width]);
    const outputs = ink.shape[1];
    const shade = bundle.pop(`${name}.shade.table`, [PIXELS, outputs]);
    return { outputs, ink, shade, count: bundle.pop(`${name}.count.table`, [256, outputs]) };
}

/** The small network: whether a pixel is 0. */
function flagNet(bundle) {
    const window = bundle.layer("flag.window", "dense", 255);
    const width = window.outputs;
    const net = {
        window,
        sums: sumsOf(bundle, "flag.sums", width),
        tables: ["position", "top", "left"].map((part, i) =>
            bundle.pop(`flag.${part}.table`, [[PIXELS, 29, 56][i], width]),
        ),
        logit: bundle.layer("flag.logit", "dense"),
        zero: bundle.pop("flag.zero_freq", [2 * FLAG_MAX + 1]),
    };
    window.check(2 * WINDOW);
    net.logit.check(width, 1);
    checkRange("flag.zero_freq", net.zero.data, 1, TOTAL - 1);
    return net;
}

/** The big network: which of the 256 values a pixel has. */
function valueNet(bundle) {
    const input = bundle.layer("value.input", "dense");
    const h = input.outputs;
    const sums = sumsOf(bundle, "value.sums");
    const near = bundle.pop("value.near.table");
    if (near.shape.length !== 3 || near.shape[0] !== NEIGHBOURS || near.shape[1] !== 256) {
        throw badModel(`value.near.table has shape (${near.shape}), wanted (12, 256, any)`);
    }
    checkRange("value.near.table", near.data, -ACTIVATION_MAX, ACTIVATION_MAX);
    const position = bundle.pop("value.position.table", [PIXELS, h]);
    const flagged = bundle.pop("value.flagged.table", [1, h]);
    const palette = bundle.pop("value.palette.table", [null, h]);
    const logits = bundle.pop("palette.logits.table", [palette.shape[0], 256]);
    const layers = Array.from({ length: bundle.count("hidden") }, (_, j) => ({
        link: bundle.layer(`links.${j}`, "dense"),
        hidden: bundle.layer(`hidden.${j}`, "dense"),
    }));
    const link = layers.length ? layers[0].link.outputs : 0;
    const head = bundle.layer("head", "dense");
    input.check(WINDOW + sums.outputs + NEIGHBOURS * near.shape[2]);
    for (const layer of layers) {
        layer.link.check(h, link);
        layer.hidden.check(h + LINKED * link, h);
    }
    head.check(h, 256);
    const exp = bundle.pop("exp", [EXP_ENTRIES]);
    checkRange("exp", exp.data, 0, TOTAL);
    if (exp.data[0] !== TOTAL) throw badModel("exp does not start with 2**16");
    return { input, sums, near, position, flagged, palette, logits, layers, link, head, exp };
}

/**
 * At least the bytes that the kernel takes for an image. It counts in 32 bits: this keeps it far
 * below.
 */
function scratchBytes(flag, value) {
    const [width, flagWidth] = [value.input.outputs, flag.window.outputs];
    const links = value.layers.length * 30 * padded(value.link) * 2;
    const rows =
        2 * value.input.inputs + 8 * width + 12 * padded(value.link) + 8 * flagWidth + 2048;
    return 2 * 34 * 40 + 4 * (flagWidth + value.sums.outputs) + 2 * links + rows;
}

function tableWords(packer, tables) {
    return tables.map(({ shape, data }) => packer.table(data, shape[shape.length - 1], Int16Array));
}

function sumsWords(packer, { ink, shade, count, outputs }) {
    return [...tableWords(packer, [ink, shade, count]), outputs];
}

function flagWords(net, packer) {
    return [
        ...packer.layer([[net.window, -FIRST_MAX, FIRST_MAX]], LOSSLESS_QUALITY),
        ...packer.layer([[net.logit, -FLAG_MAX, FLAG_MAX]], LOSSLESS_QUALITY),
        ...sumsWords(packer, net.sums),
        ...tableWords(packer, net.tables),
        packer.structure(net.zero.data),
    ];
}

function valueWords(net, packer) {
    const layer = (each, most, moved) =>
        packer.layer([[each, -most, most]], LOSSLESS_QUALITY, moved);
    // The inputs of a hidden layer: h, then the links of each neighbour, each of them padded.
    const h = net.input.outputs;
    const columns = {
        size: padded(h) + (LINKED - 1) * padded(net.link) + net.link,
        place: (k) =>
            k < h
                ? k
                : padded(h) +
                  Math.floor((k - h) / net.link) * padded(net.link) +
                  ((k - h) % net.link),
    };
    const { near, position, flagged, palette, logits } = net;
    return [
        ...layer(net.input, FIRST_MAX),
        ...layer(net.head, LOGIT_MAX),
        packer.structure(net.layers.flatMap(({ link }) => layer(link, ACTIVATION_MAX))),
        packer.structure(net.layers.flatMap(({ hidden }) => layer(hidden, ADDED_MAX, { columns }))),
        ...sumsWords(packer, net.sums),
        ...tableWords(packer, [near, position, flagged, palette, logits]),
        packer.structure(net.exp.data),
        net.layers.length,
        near.shape[2],
    ];
}
