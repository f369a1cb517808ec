/**
 * Reads .aez streams: exactly the pixels that the Python package gives. README.md documents it.
 *
 *     const stream = await open(bytes, { models: [file], wasm });
 *     const { pixels, errors } = await stream.images(0, 100);
 *
 * READ ME FIRST
 * - Nothing is read before it is needed: for images, the header and index of their blocks and the
 *   messages of their groups; for names and labels, those of their blocks.
 * - What is damaged costs no more than it must: a message the images of its group, a block its
 *   images. `damage` says what is known by now.
 * - The path: source.js (bytes) -> headers.js, recovery.js (blocks) -> block.js (groups),
 *   texts.js -> models.js (messages -> pixels).
 */
import { AezError, allocated, isMemory } from "./bytes.js";
import { unpackIndex } from "./block.js";
import * as headers from "./headers.js";
import { MODEL_IDS, ModelFiles, unstored } from "./model_files.js";
import { firstBlock, foundBlocks, listedBlocks } from "./recovery.js";
import { openSource } from "./source.js";
import { checkFits, Stream } from "./stream.js";
import { labelsSpan, unpackLabels, unpackNames } from "./texts.js";

export { AezError, MODEL_IDS };

const PIXELS = 784;
const NOTHING = new Uint8Array(0);
const KEPT_INDEXES = 64; // blocks whose index stays in memory, up to 200 KiB each

/**
 * Open a stream.
 * @param {Uint8Array | ArrayBuffer | Blob | URL | string} source bytes, a File, or an address
 * @param {object} options
 * @param {Uint8Array[] | ((hash: string, name: string | null) => Promise<Uint8Array | null>)}
 *     [options.models] model files; or what fetches one, by its Model_Hash
 * @param {Uint8Array | WebAssembly.Module} options.wasm kernels.wasm, as bytes or compiled
 * @param {boolean} [options.recover] open a collection even if its header or footer is damaged, and
 *     find the blocks that are intact; what is wrong stands in `damage`
 * @returns {Promise<Stream>}
 * @throws {AezError} if the stream is damaged where that concerns all of it
 */
export async function open(source, { models, wasm, recover = false } = {}) {
    const opened = await openSource(source);
    const files = new ModelFiles(models, wasm);
    const start = await opened.read(0, 9);
    let isCollection;
    try {
        isCollection = headers.isCollection(start) || (await endsAsCollection(opened));
    } catch (error) {
        if (!recover || !(error instanceof AezError) || start.length < 4) throw error;
        isCollection = true; // if its other bytes do not show that, what follows throws
    }
    const stream = isCollection
        ? new Collection(opened, files)
        : new SingleImage(await opened.read(0, headers.MAX_IMAGE_STREAM_BYTES + 1), files);
    await stream.begin(recover);
    return stream;
}

/** One flipped bit makes a collection look like an image; its end is still that of one. */
async function endsAsCollection(source) {
    const end = await source.read(Math.max(0, source.size - 4), 4);
    const isEnd = [0x61, 0x65, 0x7a, 0x45].every((byte, i) => end[i] === byte);
    return isEnd && source.size > 44 && (await firstBlock(source)) !== null;
}

/** A stream of one image. FORMAT.md 2. */
class SingleImage extends Stream {
    kind = "single";
    length = 1;

    constructor(bytes, files) {
        super(files);
        this.bytes = bytes;
    }

    async begin() {
        this.header = headers.imageHeader(this.bytes);
        const { modelId, modelHash } = this.header;
        this.modelHash = modelHash || (MODEL_IDS[modelId]?.hash ?? "");
        this.uses(this.modelHash);
    }

    async images(from, to) {
        this.checkRange(from, to);
        if (from === to) return { pixels: NOTHING, errors: [] };
        try {
            return { pixels: await this.#decode(), errors: [null] };
        } catch (error) {
            if (!(error instanceof AezError)) throw error;
            if (!error.kind.includes("Model") && !isMemory(error)) this.noteDamage(0, 1, error);
            return { pixels: new Uint8Array(PIXELS), errors: [error] };
        }
    }

    async #decode() {
        const { quality, modelId, payloadAt } = this.header;
        const message = this.bytes.subarray(payloadAt);
        if (quality === headers.STORED_QUALITY) {
            headers.verifyImage(this.bytes, NOTHING);
            return unstored(message).slice();
        }
        if (!this.modelHash) {
            const found = `model number ${modelId} is unknown to this reader`;
            const message = `${found}; a later one may have it`;
            throw new AezError("ModelNotFound", message, null, String(modelId));
        }
        const { model, digest } = await this.files.get(this.modelHash);
        headers.verifyImage(this.bytes, digest);
        checkFits(model, quality, 4);
        const { pixels, errors } = model.decode(quality, [message], [1]);
        if (errors[0] !== null) throw new AezError("CorruptPayload", errors[0], payloadAt);
        return pixels;
    }

    async imagesAt(numbers) {
        this.checkNumbers(numbers);
        return this.images(0, numbers.length);
    }

    async groups(from = 0, to = 1) {
        this.checkRange(from, to);
        return new Array(to - from).fill(0);
    }

    async names(from = 0, to = 1) {
        this.checkRange(from, to);
        return new Array(to - from).fill("");
    }

    async labels() {
        return null;
    }

    async details(from = 0, to = 1) {
        this.checkRange(from, to);
        const bytes = this.bytes.length - this.header.payloadAt;
        return new Array(to - from).fill(this.coding(this.modelHash, this.header.quality, bytes));
    }
}

/** Many images. FORMAT.md 3, 4 and 9. */
class Collection extends Stream {
    kind = "collection";
    #source;
    #blocks = [];
    #indexed = []; // blocks whose index is kept

    constructor(source, files) {
        super(files);
        this.#source = source;
    }

    async begin(recover) {
        const start = await this.#header(recover);
        try {
            this.#blocks = await listedBlocks(this.#source, start);
        } catch (error) {
            if (!recover || !(error instanceof AezError)) throw error;
            if (!this.damage.length) this.noteDamage(0, 0, error);
            this.#blocks = await foundBlocks(this.#source, start);
        }
        const empty = this.#blocks.find(({ images }) => images === 0); // nobody will ask for it
        if (empty) {
            const found = "a block has 0 images, at least one is needed";
            const error = new AezError("LimitExceeded", found, empty.offset);
            this.noteDamage(empty.first, empty.first, error);
        }
        const last = this.#blocks[this.#blocks.length - 1];
        this.length = last ? last.first + last.images : 0;
    }

    /** Check the header, and take its models. @returns {Promise<number>} where blocks start */
    async #header(recover) {
        const source = this.#source;
        let header = NOTHING;
        try {
            const size = headers.collectionHeaderBytes(await source.read(0, 9));
            header = await source.read(0, size);
            const { start, models } = headers.collectionHeader(header);
            this.files.embed(models);
            return start;
        } catch (error) {
            // A header whose Check holds is intact: it is of a later version, or an unknown kind.
            if (!recover || !(error instanceof AezError) || headers.isIntact(header)) throw error;
            const start = await firstBlock(source);
            if (start === null) throw error;
            this.noteDamage(0, 0, error);
            return start;
        }
    }

    async images(from, to) {
        this.checkRange(from, to);
        return this.#some(Float64Array.from({ length: to - from }, (_, k) => from + k));
    }

    async imagesAt(numbers, room) {
        this.checkNumbers(numbers);
        return this.#some(numbers, room);
    }

    /** numbers: of images, rising; room: for their pixels, if it is large enough. */
    async #some(numbers, room) {
        const size = numbers.length * PIXELS;
        const pixels = room?.length >= size ? room.subarray(0, size).fill(0) : allocated(size);
        const errors = new Array(numbers.length).fill(null);
        for (let low = 0, high = 0; low < numbers.length; low = high) {
            const [block] = this.#blocksOf(numbers[low], numbers[low] + 1);
            while (high < numbers.length && numbers[high] < block.first + block.images) high++;
            const places = new Map(); // image of the block -> its place in what is returned
            for (let k = low; k < high; k++) places.set(numbers[k] - block.first, k);
            const give = (image, found, error) => {
                if (!places.has(image)) return;
                if (error) errors[places.get(image)] = error;
                else pixels.set(found, places.get(image) * PIXELS);
            };
            try {
                await this.#decode(block, [...places.keys()], give);
            } catch (error) {
                if (!(error instanceof AezError)) throw error;
                if (!isMemory(error)) {
                    this.noteDamage(block.first, block.first + block.images, error);
                }
                errors.fill(error, low, high);
            }
        }
        return { pixels, errors };
    }

    /** Call `give` for the images of the groups that some images of a block are in. */
    async #decode(block, asked, give) {
        const { groups, groupOf } = await this.#index(block);
        await this.#verify(block);
        const wanted = [...new Set(asked.map((image) => groupOf[image]))].sort((a, b) => a - b);
        const byPart = new Map();
        for (const number of wanted) {
            const { part } = groups[number];
            if (!byPart.has(part)) byPart.set(part, []);
            byPart.get(part).push(groups[number]);
        }
        for (const [part, some] of byPart) {
            const each = await this.#decodeGroups(block, part, some);
            some.forEach(({ images }, k) => {
                const { pixels, error } = each[k];
                images.forEach((image, i) => {
                    const found = error ? null : pixels.subarray(i * PIXELS, (i + 1) * PIXELS);
                    give(image, found, error);
                });
            });
        }
    }

    /** Groups of one part -> for each its pixels, or what is wrong with it. */
    async #decodeGroups(block, { modelHash, quality }, groups) {
        let model;
        try {
            ({ model } = await this.files.get(modelHash));
            checkFits(model, quality, block.offset + 12);
        } catch (error) {
            if (!(error instanceof AezError)) throw error;
            return groups.map(() => ({ error }));
        }
        const header = await this.#blockHeader(block);
        const payloadAt = headers.BLOCK_BYTES + header.namesBytes + header.indexBytes;
        const first = groups[0].at, last = groups[groups.length - 1];
        const payload = await this.#read(block, payloadAt + first, last.at + last.size - first);
        const messages = groups.map(({ at, size }) =>
            payload.subarray(at - first, at - first + size),
        );
        const counts = groups.map(({ images }) => images.length);
        let decoded;
        try {
            decoded = model.decode(quality, messages, counts);
        } catch (error) {
            if (!isMemory(error)) throw error;
            return groups.map(() => ({ error }));
        }
        const { pixels, errors } = decoded;
        let at = 0;
        return groups.map(({ images, size }, k) => {
            const mine = pixels.subarray(at * PIXELS, (at + images.length) * PIXELS);
            at += images.length;
            // A message that is cut off decodes to garbage, which a check of 8 bits can miss.
            const isCut = messages[k].length < size;
            const why = isCut ? "the stream ends inside its message" : errors[k];
            if (why === null) return { pixels: mine, error: null };
            const number = block.first + images[0];
            const found = `image ${number} and the rest of its group are damaged: ${why}`;
            const error = new AezError("CorruptPayload", found, block.offset);
            for (const [from, to] of runs(images)) {
                this.noteDamage(block.first + from, block.first + to, error);
            }
            return { error };
        });
    }

    async groups(from = 0, to = this.length) {
        const starts = await this.#ofBlocks(from, to, null, async (block) => {
            const { groups, groupOf } = await this.#index(block);
            return Array.from(groupOf, (group) => block.first + groups[group].images[0]);
        });
        return starts.map((start, k) => start ?? from + k); // alone where a block is damaged
    }

    async names(from = 0, to = this.length) {
        return this.#ofBlocks(from, to, "", async (block) => {
            const header = await this.#blockHeader(block);
            if (!header.hasNames) return new Array(block.images).fill("");
            const { at, size } = await this.#labelsSpan(block, header);
            const start = headers.BLOCK_BYTES + at + size;
            const end = headers.BLOCK_BYTES + header.namesBytes;
            const frame = await this.#area(block, start, end - start);
            return unpackNames(frame, block.images, block.offset + start);
        });
    }

    async labels(from = 0, to = this.length) {
        const labels = await this.#ofBlocks(from, to, null, async (block) => {
            const header = await this.#blockHeader(block);
            if (!header.hasLabels) return new Array(block.images).fill(null);
            const { at, size } = await this.#labelsSpan(block, header);
            const frame = await this.#area(block, headers.BLOCK_BYTES + at, size);
            return unpackLabels(frame, block.images, block.offset + headers.BLOCK_BYTES + at);
        });
        return labels.some((label) => label !== null) ? labels : null;
    }

    async #labelsSpan(block, header) {
        if (!header.hasLabels) return { at: 0, size: 0 };
        const start = await this.#area(block, headers.BLOCK_BYTES, Math.min(5, header.namesBytes));
        return labelsSpan(start, header, block.offset + headers.BLOCK_BYTES);
    }

    async details(from = 0, to = this.length) {
        return this.#ofBlocks(from, to, null, async (block) => {
            const { groups, groupOf } = await this.#index(block);
            const each = groups.map(({ part, images, size }) =>
                this.coding(part.modelHash, part.quality, size / images.length),
            );
            return Array.from(groupOf, (group) => each[group]);
        });
    }

    /** What `find` gives for all images of a block, joined for a range; `other` where damaged. */
    async #ofBlocks(from, to, other, find) {
        this.checkRange(from, to);
        const found = [];
        for (const block of this.#blocksOf(from, to)) {
            const low = Math.max(from, block.first) - block.first;
            const high = Math.min(to, block.first + block.images) - block.first;
            let each;
            try {
                each = await find(block);
            } catch (error) {
                if (!(error instanceof AezError)) throw error;
                this.noteDamage(block.first, block.first + block.images, error);
                each = new Array(block.images).fill(other);
            }
            for (let i = low; i < high; i++) found.push(each[i]);
        }
        return found;
    }

    // Blocks

    #blocksOf(from, to) {
        let low = 0, high = this.#blocks.length;
        while (low < high) {
            const middle = (low + high) >> 1;
            const { first, images } = this.#blocks[middle];
            if (first + images <= from) low = middle + 1;
            else high = middle;
        }
        const found = [];
        for (; low < this.#blocks.length && this.#blocks[low].first < to; low++) {
            found.push(this.#blocks[low]);
        }
        return found;
    }

    #read(block, at, size) {
        return this.#source.read(block.offset + at, size);
    }

    async #area(block, at, size) {
        const area = await this.#read(block, at, size);
        if (area.length < size) {
            throw new AezError("Truncated", "the stream ends inside a block", block.offset);
        }
        return area;
    }

    /** The header of a block, checked against the footer. */
    async #blockHeader(block) {
        if (!block.header) {
            const bytes = await this.#read(block, 0, headers.BLOCK_BYTES);
            const header = headers.blockHeader(bytes, block.offset);
            if (header.images !== block.images || header.blockBytes !== block.size) {
                const found = "block and footer disagree about the size of this block";
                throw new AezError("LimitExceeded", found, block.offset);
            }
            block.header = header;
            if (!header.hasParts) this.uses(header.modelHash);
        }
        return block.header;
    }

    async #index(block) {
        if (!block.index) {
            const header = await this.#blockHeader(block);
            const at = headers.BLOCK_BYTES + header.namesBytes;
            const area = await this.#area(block, at, header.indexBytes);
            block.index = unpackIndex(area, header, block.offset + at);
            for (const { part } of block.index.groups) this.uses(part.modelHash);
            this.#indexed.push(block);
            if (this.#indexed.length > KEPT_INDEXES) this.#indexed.shift().index = null;
        }
        return block.index;
    }

    /** Verify the Checksum of a block once, if reading all of it is cheap; note what is wrong. */
    async #verify(block) {
        if (!this.#source.local || block.verified) return;
        block.verified = true;
        const header = await this.#blockHeader(block);
        const bytes = await this.#read(block, 0, block.size);
        try {
            if (bytes.length < block.size) {
                throw new AezError("Truncated", "the stream ends inside this block", block.offset);
            }
            headers.verifyBlock(bytes, header, block.offset);
        } catch (error) {
            if (!(error instanceof AezError)) throw error;
            this.noteDamage(block.first, block.first + block.images, error);
        }
    }
}

/** Rising numbers -> [from, to] of each run of neighbours. */
function runs(numbers) {
    const found = [];
    for (const number of numbers) {
        const last = found[found.length - 1];
        if (last?.[1] === number) last[1]++;
        else found.push([number, number + 1]);
    }
    return found;
}
