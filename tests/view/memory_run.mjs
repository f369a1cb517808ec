/**
 * Decodes with little memory, for tests/test_view_memory.py: node memory_run.mjs REQUEST.json
 *
 *     {stream: PATH, models: [PATH], wasm: PATH}  ->  {error} of `images`, or {errors, damage}
 */
import { readFileSync } from "node:fs";
import { open } from "../../codec/view/web/aez.js";

const [{ stream: path, models, wasm }] = JSON.parse(readFileSync(process.argv[2], "utf8"));
const stream = await open(readFileSync(path), {
    models: models.map((file) => readFileSync(file)),
    wasm: readFileSync(wasm),
});
const told = (error) => error && [error.name, error.kind, error.message];
try {
    const { errors } = await stream.images(0, stream.length);
    console.log(JSON.stringify([{ errors: errors.map(told), damage: stream.damage.length }]));
} catch (error) {
    console.log(JSON.stringify([{ error: told(error) }]));
}
