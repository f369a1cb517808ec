// What the page says about a stream as a whole.

import { counted, sized, told, written } from "./page_text.js";

const MAX_TOLD = 4; // places of damage that are listed

/** The line below the grid.  @returns {string} */
export function statusOf({ shown, problem, comparison, grid }) {
    if (problem) return "Nothing to show";
    if (!shown) return "Opening\u2026";
    const { info, facts, pool, size } = shown;
    const parts = [counted(info.length, "image")];
    if (size) parts.push(sized(size));
    if (size && info.length > 1) parts.push(`${written(size / info.length, 1)} bytes each`);
    if (grid.order && grid.count < info.length) parts.push(`${written(grid.count)} shown`);
    if (facts.known && facts.known < info.length) parts.push(`${written(facts.known)} read`);
    const { absent, unmade, damaged } = pool;
    if (damaged.size) parts.push(`${written(damaged.size)} damaged`);
    if (absent) parts.push(`${written(absent)} without a model`);
    if (unmade) parts.push(`${written(unmade)} not shown for lack of memory`);
    if (comparison) parts.push(comparison.summary());
    const { current } = grid;
    if (current >= 0 && grid.count) parts.push(`image ${written(grid.number(current))}`);
    return parts.filter(Boolean).join(" \u00b7 ");
}

/** Lines about places of damage.  A damaged block may have images that are whole.  */
export function damageLines(damage) {
    const lines = damage.slice(0, MAX_TOLD).map(({ from, to, error }) => {
        const where = to - from === 1 ? `Image ${written(from)} is damaged`
            : to > from ? `There is damage in images ${written(from)} to ${written(to - 1)}`
                : "The stream is damaged";
        return `${where}. ${told(error)}`;
    });
    const more = damage.length - lines.length;
    if (more) lines.push(`${counted(more, "more place")} of damage.`);
    return lines;
}
