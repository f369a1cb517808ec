/**
 * Random reads from whatever holds a stream: bytes, a Blob or File, or an address that answers
 * range requests.
 */

/**
 * @param {Uint8Array | ArrayBuffer | Blob | URL | string} source
 * @returns {Promise<{size: number, local: boolean, read: (at: number, size: number) =>
 *     Promise<Uint8Array>}>} read: fewer bytes only at the end; local: whether reading is cheap
 * @throws {Error} if an address cannot be read
 */
export async function openSource(source) {
    if (source instanceof ArrayBuffer) return ofBytes(new Uint8Array(source));
    if (source instanceof Uint8Array) return ofBytes(source);
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

/** A server that knows no ranges sends everything at the first request; that is kept. */
async function ofAddress(address) {
    const first = await fetch(address, { headers: { Range: "bytes=0-0" } });
    if (first.status === 416) return ofBytes(new Uint8Array(0)); // there is not one byte
    if (!first.ok) {
        throw new Error(`${address} cannot be read: ${first.status} ${first.statusText}`);
    }
    const stated = /\/(\d+)$/.exec(first.headers.get("Content-Range") ?? "");
    if (first.status === 200 || !stated) return ofBytes(new Uint8Array(await first.arrayBuffer()));
    const size = Number(stated[1]);
    const read = async (at, count) => {
        const end = Math.min(at + count, size);
        if (at >= end) return new Uint8Array(0);
        const part = await fetch(address, { headers: { Range: `bytes=${at}-${end - 1}` } });
        const bytes = new Uint8Array(await part.arrayBuffer());
        if (part.status !== 206 || bytes.length !== end - at) {
            throw new Error(`${address} has changed, or cannot be read: ${part.status}`);
        }
        return bytes;
    };
    return { size, local: false, read };
}
