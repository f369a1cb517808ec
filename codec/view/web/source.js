/**
 * Random reads from whatever holds a stream: bytes, a Blob or File, or an address that answers
 * range requests.
 */
import { plain } from "./bytes.js";

/**
 * @param {Uint8Array | ArrayBuffer | Blob | URL | string} source
 * @returns {Promise<{size: number, local: boolean, read: (at: number, size: number) =>
 *     Promise<Uint8Array>}>} read: fewer bytes only at the end; local: whether reading is cheap
 * @throws {Error} if an address cannot be read
 */
export async function openSource(source) {
    if (source instanceof ArrayBuffer) return ofBytes(new Uint8Array(source));
    if (source instanceof Uint8Array) return ofBytes(plain(source));
    if (typeof Blob !== "undefined" && source instanceof Blob) return ofBlob(source);
    if (typeof source === "string" || source instanceof URL) return ofAddress(String(source));
    throw new TypeError("a stream is bytes, a Blob, a File, or an address");
}

function ofBytes(bytes) {
    return {
        size: bytes.length,
        local: true,
        read: async (at, size) => bytes.subarray(at, at + size),
    };
}

function ofBlob(blob) {
    const read = async (at, size) =>
        new Uint8Array(await blob.slice(at, at + size).arrayBuffer());
    return { size: blob.size, local: true, read };
}

/**
 * A server that knows no ranges sends everything at the first request; that is kept. So is all of
 * a stream whose size is not told: a page of another origin may not be allowed to see it.
 */
async function ofAddress(address) {
    const first = await fetch(address, { headers: { Range: "bytes=0-0" } });
    if (first.status === 416) return ofBytes(new Uint8Array(0)); // there is not one byte
    if (!first.ok) throw unreadable(address, first);
    const size = sizeOf(first);
    if (first.status !== 206) return ofBytes(new Uint8Array(await first.arrayBuffer()));
    if (size === null) {
        const all = await fetch(address);
        if (!all.ok) throw unreadable(address, all);
        return ofBytes(new Uint8Array(await all.arrayBuffer()));
    }
    const read = async (at, count) => {
        const end = Math.min(at + count, size);
        if (at >= end) return new Uint8Array(0);
        const part = await fetch(address, { headers: { Range: `bytes=${at}-${end - 1}` } });
        // looked at first: what else it answers may be large
        if (part.status !== 206 || sizeOf(part) !== size) throw unreadable(address, part);
        const bytes = new Uint8Array(await part.arrayBuffer());
        if (bytes.length !== end - at) throw unreadable(address, part);
        return bytes;
    };
    return { size, local: false, read };
}

/** The size of all of it, which a part of it states; or null. */
function sizeOf(response) {
    const stated = /\/(\d+)$/.exec(response.headers.get("Content-Range") ?? "");
    return stated && Number(stated[1]);
}

function unreadable(address, { status, statusText }) {
    const changed = status === 200 || status === 206 ? "has changed or " : "";
    return new Error(`${address} ${changed}cannot be read: ${status} ${statusText}`.trim());
}
