// PNG files of single images: 8-bit grey, exact.
//
// Not by canvas.toBlob: it writes four channels, and browsers that fight fingerprints change what
// is read back from a canvas.  784 bytes need no compression, so deflate's stored blocks do.

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n;
});

function crc32(bytes) {
    let crc = 0xffffffff;
    for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
    return ~crc >>> 0;
}

function adler32(bytes) {
    let low = 1;
    let high = 0;
    for (const byte of bytes) {
        low = (low + byte) % 65521;
        high = (high + low) % 65521;
    }
    return high * 65536 + low;
}

const big = (value) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255);

function chunk(type, content) {
    const body = [...new TextEncoder().encode(type), ...content];
    return [...big(content.length), ...body, ...big(crc32(body))];
}

/**
 * A PNG file of grey pixels, row by row; fewer than 65,000 of them.
 * @param {Uint8Array} pixels
 * @param {number} width
 * @returns {Uint8Array}
 */
export function greyPng(pixels, width = 28) {
    const height = pixels.length / width;
    const rows = [];
    for (let y = 0; y < height; y++) rows.push(0, ...pixels.subarray(y * width, (y + 1) * width));
    const size = [rows.length & 255, rows.length >> 8];
    const stored = [0x78, 1, 1, ...size, ...size.map((byte) => byte ^ 255), ...rows];
    return Uint8Array.from([
        137, 80, 78, 71, 13, 10, 26, 10,
        ...chunk("IHDR", [...big(width), ...big(height), 8, 0, 0, 0, 0]),
        ...chunk("IDAT", [...stored, ...big(adler32(rows))]),
        ...chunk("IEND", []),
    ]);
}
