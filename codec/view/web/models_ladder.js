/**
 * The lossy coder, a ladder of latents, on the kernels: the twin of
 * codec/model/{ladder,ladder_native}.py. FORMAT.md 5 to 7; codec/model/ladder.py has a drawing.
 */
import {
    ACTIVATION_MAX,
    POSITIONS,
    ROWS,
    badModel,
    checkRange,
    interpolate,
} from "./models_file.js";
import { Packer, padded } from "./models_memory.js";
import { Lanes, PIXELS, faultOf, inBatches, withoutZeros } from "./models_messages.js";

const DEQUANTIZED_MAX = 4095;
const DEQUANTIZER_BITS = 18;
const LATENT_MAX = 1 << 17;
const NUM_SIGMAS = 64; // rows of a CDF table
const MAX_SYMBOLS = 255;
const STEP_UNIT = 256; // latents and means are in 256ths of a step
const TOTAL = 1 << 16;
const BATCH_IMAGES = 48; // their features fit the cache
const MAX_SCRATCH_BYTES = 1 << 28; // of a batch; a model that needs more for 16 images is refused

/** A symbol for each code, in 256ths of a step: 0, -1, 1, -2, 2, ... */
const RESIDUALS = Int32Array.from(
    { length: 256 },
    (_, c) => STEP_UNIT * (c & 1 ? -(c + 1) / 2 : c / 2),
);

export class Ladder {
    #kernels;
    #packer;
    #qualities = new Map();
    #batch;
    #tables; // addresses of the CDF table of each level

    /** Take all tensors of a bundle. Throws BadModel. */
    constructor(bundle, kernels) {
        this.#kernels = kernels;
        this.#packer = new Packer(kernels);
        this.lossless = false;
        this.start = [
            bundle.layer("start0", "dense", DEQUANTIZED_MAX),
            bundle.layer("start1", "dense"),
        ];
        this.widen = bundle.layer("widen", "point");
        this.output = bundle.layer("output", "point");
        this.stages = upTo(bundle.count("synthesis"), (i) => residualsOf(bundle, `synthesis.${i}`));
        this.levels = upTo(bundle.count("levels"), (i) => levelOf(bundle, `levels.${i}`));
        if (this.stages.length !== this.levels.length + 1) {
            throw badModel(
                `${this.levels.length} levels in ${this.stages.length} stages of synthesis`,
            );
        }
        this.multiplyAdds = bundle.multiplyAdds;
        this.priorMean = bundle.pop("prior_mean", [ROWS, null]);
        this.priorSigma = bundle.pop("prior_sigma", [ROWS, null]);
        this.dequantizer = dequantizerOf(bundle, "dequantizer");
        checkRange("prior_mean", this.priorMean.data, -LATENT_MAX, LATENT_MAX);
        checkRange("prior_sigma", this.priorSigma.data, 0, NUM_SIGMAS - 1);
        this.#checkChannels();
        this.cdf = cdfOf(bundle, 1 + this.levels.length);
        bundle.finish();
        const images = Math.floor(MAX_SCRATCH_BYTES / this.#scratchBytes());
        if (images < 16) throw badModel("the model needs more memory than there is");
        this.#batch = Math.min(BATCH_IMAGES, images);
        const words = this.cdf.shape[1] * this.cdf.shape[2];
        this.#tables = upTo(1 + this.levels.length, (i) =>
            kernels.keep(this.cdf.data.subarray(i * words, (i + 1) * words)),
        );
    }

    /** Throw BadModel unless the output of every layer is what the next one takes. */
    #checkChannels() {
        const channels = this.widen.outputs;
        const latents = this.dequantizer.shape[1];
        for (const table of [this.priorMean, this.priorSigma]) {
            if (table.shape[1] !== latents)
                throw badModel("the priors of the dense latents do not fit together");
        }
        this.start[0].check(latents);
        this.start[1].check(this.start[0].outputs, this.widen.inputs * POSITIONS);
        for (const { reduce, spatial, restore } of this.stages.flat()) {
            reduce.check(channels);
            spatial.check(reduce.outputs);
            restore.check(spatial.outputs, channels);
        }
        for (const { prior0, mean, sigma, merge, dequantizer } of this.levels) {
            prior0.check(channels);
            mean.check(prior0.outputs, dequantizer.shape[1]);
            sigma.check(prior0.outputs, dequantizer.shape[1]);
            merge.check(dequantizer.shape[1], channels);
        }
        this.output.check(channels, 16);
    }

    /**
     * At least the bytes of scratch for an image. The kernels count in 32 bits: this keeps them far
     * below.
     */
    #scratchBytes() {
        const widths = this.stages
            .flat()
            .map(({ reduce, spatial }) => Math.max(reduce.outputs, spatial.outputs));
        const levels = this.levels.map((level) => level.prior0.outputs + 8 * latents(level));
        const { widen, start } = this;
        const rows = widen.outputs + widen.inputs + 3 * most(widths) + 2 * most(levels) + 128;
        return 2 * (POSITIONS * rows + start[0].outputs + 8 * latents(this) + PIXELS);
    }

    /** Throw RangeError unless streams of this model can have this quality. */
    checkQuality(quality) {
        if (!(Number.isInteger(quality) && quality >= 0 && quality <= 99)) {
            throw new RangeError(`a lossy model has no quality ${quality}`);
        }
    }

    /** See `Model.decode`. */
    decode(quality, messages, counts) {
        const at = this.#at(quality);
        return inBatches(this.#kernels, messages, counts, this.#batch, (some, batch, pixels) =>
            this.#decodeBatch(at, some, batch, pixels),
        );
    }

    /** See `inBatches`. at: the structures of a quality. */
    #decodeBatch(at, messages, { group, images: n }, pixels) {
        const kernels = this.#kernels;
        const counts = [at.means.length, ...this.levels.map((level) => POSITIONS * latents(level))];
        const symbols = counts.reduce((sum, count) => sum + count);
        const whole = messages.map(withoutZeros);
        const tooLong = whole.map((message) => message.length > 2 * symbols * group + 4);
        const start = (message) => ({ message, at: 0, state: 0 });
        const nothing = new Uint8Array();
        const lanes = new Lanes(
            kernels,
            whole.map((message, lane) => start(tooLong[lane] ? nothing : message)),
        );
        const size = most(counts) * n;
        const [means, rows, codes] = [4, 4, 1].map((bytes) => kernels.take(size * bytes));
        const t = kernels.take(n * POSITIONS * padded(this.widen.outputs) * 2);
        const image = kernels.take(n * PIXELS);
        const decodeLevel = (i) => {
            const [table, width] = [this.#tables[i], this.cdf.shape[2]];
            const [steps, where] = [counts[i], [rows, lanes.at, lanes.bytes, codes]];
            kernels.call("decode_symbols", table, width, steps, n, group, ...where);
            // The latents take the place of their means.
            const [y, code] = [kernels.i32.subarray(means / 4), kernels.u8.subarray(codes)];
            for (let k = 0; k < steps * n; k++) y[k] += RESIDUALS[code[k]];
        };
        at.means.forEach((mean, k) => {
            kernels.i32.fill(mean, means / 4 + k * n, means / 4 + (k + 1) * n);
            kernels.i32.fill(at.rows[k], rows / 4 + k * n, rows / 4 + (k + 1) * n);
        });
        decodeLevel(0);
        kernels.call("start", at.start, n, means, t, 0);
        at.stages.forEach(({ address, count }, i) => {
            kernels.call("residuals", address, count, n, t, 0);
            if (i === at.levels.length) return;
            kernels.call("prior", at.levels[i], n, t, means, rows, 0);
            decodeLevel(i + 1);
            kernels.call("merge", at.levels[i], n, means, t, 0);
        });
        kernels.call("unpatches", at.output, n, t, image);
        pixels.set(kernels.u8.subarray(image, image + n * PIXELS));
        return lanes.finish().map((end, lane) => {
            if (tooLong[lane]) return "a message is longer than any that is valid";
            return faultOf(
                end,
                pixels.subarray(lane * group * PIXELS, (lane + 1) * group * PIXELS),
            );
        });
    }

    /** The structures of a quality, made when it is first used. */
    #at(quality) {
        if (!this.#qualities.has(quality)) this.#qualities.set(quality, this.#make(quality));
        return this.#qualities.get(quality);
    }

    #make(quality) {
        const packer = this.#packer;
        const signed = (layer) => packer.layer([[layer, -ACTIVATION_MAX, ACTIVATION_MAX]], quality);
        const rectified = (layer, moved) =>
            packer.layer([[layer, 0, ACTIVATION_MAX]], quality, moved);
        const dequantizer = (table) => {
            const multipliers = interpolate(table, quality).map((m) => m * 2 ** -DEQUANTIZER_BITS);
            return [packer.table(multipliers, table.shape[1], Float32Array), table.shape[1]];
        };
        const { widen, start } = this;
        // Output c * 49 + p of start1 is channel c at position p, and lies in row p.
        const width = padded(widen.inputs);
        const places = {
            size: (POSITIONS - 1) * width + widen.inputs,
            place: (i) => (i % POSITIONS) * width + Math.floor(i / POSITIONS),
        };
        return {
            means: interpolate(this.priorMean, quality),
            rows: interpolate(this.priorSigma, quality),
            start: packer.structure([
                ...rectified(start[0]),
                ...rectified(start[1], { places }),
                ...signed(widen),
                ...dequantizer(this.dequantizer),
            ]),
            stages: this.stages.map((stage) => ({
                count: stage.length,
                address: packer.structure(
                    stage.flatMap(({ reduce, spatial, restore }) => [
                        ...rectified(reduce),
                        ...rectified(spatial),
                        ...signed(restore),
                    ]),
                ),
            })),
            levels: this.levels.map(({ prior0, mean, sigma, merge, dequantizer: table }) =>
                packer.structure([
                    ...Array(2 * 9).fill(0), // the posteriors, which only an encoder has
                    ...rectified(prior0),
                    ...packer.layer(
                        [
                            [mean, -LATENT_MAX, LATENT_MAX],
                            [sigma, 0, NUM_SIGMAS - 1],
                        ],
                        quality,
                    ),
                    ...signed(merge),
                    ...dequantizer(table),
                ]),
            ),
            output: packer.structure(packer.layer([[this.output, 0, 255]], quality)),
        };
    }
}

function most(numbers) {
    return numbers.reduce((largest, each) => Math.max(largest, each), 0);
}

/** Channels of the latents of a level. */
function latents({ dequantizer }) {
    return dequantizer.shape[1];
}

function upTo(count, make) {
    return Array.from({ length: count }, (_, i) => make(i));
}

function residualsOf(bundle, prefix) {
    return upTo(bundle.count(prefix), (i) => ({
        reduce: bundle.layer(`${prefix}.${i}.reduce`, "point"),
        spatial: bundle.layer(`${prefix}.${i}.spatial`, "conv"),
        restore: bundle.layer(`${prefix}.${i}.restore`, "point"),
    }));
}

function levelOf(bundle, prefix) {
    return {
        prior0: bundle.layer(`${prefix}.prior0`, "point"),
        mean: bundle.layer(`${prefix}.prior_mean`, "point"),
        sigma: bundle.layer(`${prefix}.prior_sigma`, "point"),
        merge: bundle.layer(`${prefix}.merge`, "point", DEQUANTIZED_MAX),
        dequantizer: dequantizerOf(bundle, `${prefix}.dequantizer`),
    };
}

function dequantizerOf(bundle, name) {
    const table = bundle.pop(name, [ROWS, null]);
    checkRange(name, table.data, 1, 2 ** 24);
    return table;
}

/** The CDF tables (levels, NUM_SIGMAS, symbols + 1), FORMAT.md 7.3. */
function cdfOf(bundle, levels) {
    const cdf = bundle.pop("cdf", [levels, NUM_SIGMAS, null]);
    const width = cdf.shape[2];
    if (width < 2 || width > MAX_SYMBOLS + 1) throw badModel(`cdf has rows of ${width} entries`);
    for (let row = 0; row < levels * NUM_SIGMAS; row++) {
        const entries = cdf.data.subarray(row * width, (row + 1) * width);
        const end = entries.indexOf(TOTAL); // the number of symbols, if all is well
        const rises = entries.every((entry, i) =>
            i === 0 ? entry === 0 : i > end ? entry === TOTAL : entry > entries[i - 1],
        );
        if (end < 0 || !rises)
            throw badModel("a CDF row does not run from 0 to 2**16, or has a gap");
        if (end % 2 === 0 || (row % NUM_SIGMAS === 0 && end !== 1)) {
            throw badModel("a CDF row has an even number of symbols, or row 0 is not certain");
        }
    }
    return cdf;
}
