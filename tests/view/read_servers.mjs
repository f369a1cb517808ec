/**
 * Opens a stream at servers that answer range requests in other ways than they should, for
 * tests/test_view_reader_hostile.py:
 *
 *     node read_servers.mjs STREAM KIND  ->  {names, requests} or {error, requests}, as JSON
 *
 * KIND: "hidden": parts do not say how large all is, as a page of another origin sees them;
 * "growing": all becomes larger with each request; "forgetful": answers the first request with a
 * part, all others with the whole; "short": parts are one byte too short; "gone": nothing is there;
 * any other: as it should be.
 */
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { open } from "../../codec/view/web/aez.js";

const [file, kind] = process.argv.slice(2);
const bytes = readFileSync(file);
const requests = [];

const server = createServer((request, response) => {
    const range = request.headers.range ?? "";
    requests.push(range);
    const [, from, to] = (/^bytes=(\d+)-(\d+)$/.exec(range) ?? []).map(Number);
    if (kind === "gone") return response.writeHead(404).end("no");
    if (!range || (kind === "forgetful" && requests.length > 1)) return response.end(bytes);
    const size = bytes.length + (kind === "growing" ? requests.length : 0);
    const stated = { "Content-Range": `bytes ${from}-${to}/${size}` };
    response.writeHead(206, kind === "hidden" ? {} : stated);
    response.end(bytes.subarray(from, to + (kind === "short" && from > 0 ? 0 : 1)));
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
try {
    const stream = await open(`http://127.0.0.1:${server.address().port}/x.aez`);
    console.log(JSON.stringify({ names: await stream.names(), requests }));
} catch (error) {
    console.log(JSON.stringify({ error: error.message, requests }));
} finally {
    server.close();
}
