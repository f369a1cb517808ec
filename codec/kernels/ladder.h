/* The ladder of latents: the twin of the lossy model in codec/model, stage by stage.  FORMAT.md 6.
 *
 * The features t of an image are rows, int16 (49, channels). An image goes through all layers of a stage while it is in the
 * nearest cache. Layers without positions (`dense`) take all images at once, since they use each weight only once per image.
 * Latents, means and rows of the CDF table are in the order in which the coder reads them: int32 (channels, 49, images).
 *
 * A trace (NULL, or uint16 masks, one image after the other) records what was clipped; the `..._backward` functions need it.
 * Functions return 0, or -1 if there is no memory.
 */
#include <stdlib.h>

typedef struct {
    Layer reduce, spatial, restore;
} Residual;

typedef struct {
    Layer posterior0, posterior1, prior0, prior, merge; /* prior: means, then rows of the CDF table */
    const float *dequantizer;                           /* (channels padded) */
    int32_t channels;
} Level;

typedef struct {
    Layer start0, start1, widen; /* start1: its outputs in rows, (49, widen.inputs padded) */
    const float *dequantizer;
    int32_t channels;
} Start;

enum { PIXEL_UNIT = 4, DEQUANTIZED_MAX = 4095, ACTIVATION_MAX = 1023, PATCH = 4, IMAGE_SIDE = 28 };

/* One allocation for all arrays of a call. */
typedef struct {
    char *memory;
    size_t used;
} Arena;

static void *take(Arena *arena, size_t bytes) {
    void *found = arena->memory ? arena->memory + arena->used : NULL;
    arena->used += (bytes + 63) / 64 * 64;
    return found;
}

/* Residual: 1x1 to fewer channels, 3x3, 1x1 back, added to t. grid: zeros, except where it is overwritten here. */
static void residual(const Residual *block, int16_t *t, int16_t *grid, int16_t *hidden, uint16_t **trace) {
    ptrdiff_t width = block->reduce.outputs, inner = block->spatial.outputs, channels = block->restore.outputs, taps[9];
    uint16_t *mask[4] = {NULL, NULL, NULL, NULL};
    if (*trace)
        for (int i = 0; i < 4; i++) {
            mask[i] = *trace;
            *trace += POSITIONS * (i == 0 ? width : i == 1 ? inner : channels) / LANES;
        }
    neighbours(width, taps);
    for (int y = 0; y < SIDE; y++) {
        Layer row = block->reduce;
        row.bias += (ptrdiff_t)y * SIDE * row.bias_step;
        Output out = {.y = grid + GRID_AT(y, 0) * width, .y_step = width};
        if (mask[0]) out.trace = mask[0] + y * SIDE * width / LANES;
        apply(&row, t + y * SIDE * channels, channels, HERE, SIDE, &out);
    }
    for (int y = 0; y < SIDE; y++) {
        Layer row = block->spatial;
        row.bias += (ptrdiff_t)y * SIDE * row.bias_step;
        Output out = {.y = hidden + y * SIDE * inner, .y_step = inner};
        if (mask[1]) out.trace = mask[1] + y * SIDE * inner / LANES;
        apply(&row, grid + GRID_AT(y, 0) * width, width, taps, SIDE, &out);
    }
    Output out = {.y = t, .y_step = channels, .plus = t, .plus_high = ACTIVATION_MAX, .trace = mask[2], .plus_trace = mask[3]};
    apply(&block->restore, hidden, inner, HERE, POSITIONS, &out);
}

/* t int16 (n, 49, channels) through `count` residuals, in place. */
int KERNEL(residuals)(const Residual *blocks, int count, int n, int16_t *t, uint16_t *trace) {
    if (!count) return 0;
    ptrdiff_t channels = blocks->restore.outputs, width = 0;
    for (int i = 0; i < count; i++) {
        if (blocks[i].reduce.outputs > width) width = blocks[i].reduce.outputs;
        if (blocks[i].spatial.outputs > width) width = blocks[i].spatial.outputs;
    }
    int16_t *grid = calloc((size_t)(GRID_ROWS + POSITIONS) * width, sizeof *grid);
    if (!grid) return -1;
    for (int i = 0; i < n; i++)
        for (int b = 0; b < count; b++) {
            if (blocks[b].reduce.outputs != blocks[(b + count - 1) % count].reduce.outputs)
                memset(grid, 0, (size_t)GRID_ROWS * width * sizeof *grid); /* the next rows have another length */
            residual(blocks + b, t + i * POSITIONS * channels, grid, grid + GRID_ROWS * width, &trace);
        }
    free(grid);
    return 0;
}

/* pixels uint8 (n, 28, 28) -> e int16 (n, 49, channels), before its residuals. */
int KERNEL(patches)(const Layer *input, int n, const uint8_t *pixels, int16_t *e) {
    int16_t patch[POSITIONS * PATCH * PATCH];
    for (int i = 0; i < n; i++) {
        const uint8_t *image = pixels + (ptrdiff_t)i * IMAGE_SIDE * IMAGE_SIDE;
        for (int y = 0; y < IMAGE_SIDE; y++)
            for (int x = 0; x < IMAGE_SIDE; x++)
                patch[(y / PATCH * SIDE + x / PATCH) * PATCH * PATCH + y % PATCH * PATCH + x % PATCH] =
                    (int16_t)(PIXEL_UNIT * image[y * IMAGE_SIDE + x]);
        dense(input, patch, PATCH * PATCH, POSITIONS, e + (ptrdiff_t)i * POSITIONS * input->outputs, NULL);
    }
    return 0;
}

/* t int16 (n, 49, channels) -> pixels uint8 (n, 28, 28). */
int KERNEL(unpatches)(const Layer *output, int n, const int16_t *t, uint8_t *pixels) {
    int16_t patch[POSITIONS * PATCH * PATCH];
    for (int i = 0; i < n; i++) {
        uint8_t *image = pixels + (ptrdiff_t)i * IMAGE_SIDE * IMAGE_SIDE;
        ptrdiff_t step = PADDED(output->inputs);
        dense(output, t + i * POSITIONS * step, step, POSITIONS, patch, NULL);
        for (int y = 0; y < IMAGE_SIDE; y++)
            for (int x = 0; x < IMAGE_SIDE; x++)
                image[y * IMAGE_SIDE + x] = (uint8_t)
                    patch[(y / PATCH * SIDE + x / PATCH) * PATCH * PATCH + y % PATCH * PATCH + x % PATCH];
    }
    return 0;
}

/* Latents of one image, int32 (channels, positions) `step` numbers apart -> x int16 (positions, channels padded). */
static void dequantize(const float *dequantizer, int channels, int positions, const int32_t *y, ptrdiff_t step, int16_t *x,
                       uint16_t *trace) {
    vint low = splat(-DEQUANTIZED_MAX), high = splat(DEQUANTIZED_MAX);
    for (int p = 0; p < positions; p++)
        for (int k = 0; k < channels; k += PAD) {
            int32_t row[PAD] = {0};
            for (int i = 0; i < PAD && k + i < channels; i++) row[i] = y[((ptrdiff_t)(k + i) * positions + p) * step];
            for (int i = 0; i < PAD; i += LANES) {
                vint found = clip(requantize(load(row + i), loadf(dequantizer + k + i)), low, high);
                store16(x, found);
                x += LANES;
                if (trace) *trace++ = (uint16_t)inside(found, low, high);
            }
        }
}

/* Rows of one image, int32 (positions, step) -> int32 (channels, positions), `images` numbers apart. */
static void scatter(const int32_t *rows, ptrdiff_t step, int channels, int positions, int32_t *y, ptrdiff_t images) {
    for (int p = 0; p < positions; p++)
        for (int k = 0; k < channels; k++) y[((ptrdiff_t)k * positions + p) * images] = rows[p * step + k];
}

/* Dense latents int32 (channels, n) -> t int16 (n, 49, widen.outputs). */
int KERNEL(start)(const Start *start, int n, const int32_t *y, int16_t *t, uint16_t *trace) {
    ptrdiff_t k = PADDED(start->channels), width = start->start0.outputs, wide = start->start1.outputs;
    Arena arena = {NULL, 0};
    int16_t *x = NULL, *h = NULL, *grids = NULL;
    for (int pass = 0; pass < 2; pass++) { /* the first pass only adds up the size */
        x = take(&arena, (size_t)n * k * sizeof *x);
        h = take(&arena, (size_t)n * width * sizeof *h);
        grids = take(&arena, (size_t)n * wide * sizeof *grids);
        if (!pass && !(arena = (Arena){malloc(arena.used), 0}).memory) return -1;
    }
    uint16_t *masks[4] = {trace, trace, trace, trace};
    if (trace) {
        masks[1] = masks[0] + n * k / LANES;
        masks[2] = masks[1] + n * width / LANES;
        masks[3] = masks[2] + n * wide / LANES;
    }
    for (int i = 0; i < n; i++)
        dequantize(start->dequantizer, start->channels, 1, y + i, n, x + i * k, trace ? masks[0] + i * k / LANES : NULL);
    dense(&start->start0, x, k, n, h, masks[1]);
    dense(&start->start1, h, width, n, grids, masks[2]);
    ptrdiff_t step = wide / POSITIONS, channels = start->widen.outputs;
    for (int i = 0; i < n; i++)
        dense(&start->widen, grids + i * wide, step, POSITIONS, t + i * POSITIONS * channels,
              trace ? masks[3] + i * POSITIONS * channels / LANES : NULL);
    free(arena.memory);
    return 0;
}

/* t int16 (n, 49, channels) -> means and rows of the CDF table int32 (k, 49, n). */
int KERNEL(prior)(const Level *level, int n, const int16_t *t, int32_t *means, int32_t *rows, uint16_t *trace) {
    ptrdiff_t width = level->prior0.outputs, channels = PADDED(level->prior0.inputs), both = level->prior.outputs;
    int32_t *found = malloc(POSITIONS * (both * sizeof *found + width * sizeof(int16_t)));
    if (!found) return -1;
    int16_t *h = (int16_t *)(found + POSITIONS * both);
    for (int i = 0; i < n; i++) {
        uint16_t *last = trace ? trace + POSITIONS * width / LANES : NULL;
        dense(&level->prior0, t + i * POSITIONS * channels, channels, POSITIONS, h, trace);
        Output out = {.wide = found, .y_step = both, .trace = last};
        apply(&level->prior, h, width, HERE, POSITIONS, &out);
        scatter(found, both, level->channels, POSITIONS, means + i, n);
        scatter(found + level->channels, both, level->channels, POSITIONS, rows + i, n);
        if (trace) trace += POSITIONS * (width + both) / LANES;
    }
    free(found);
    return 0;
}

/* Latents int32 (k, 49, n) into t int16 (n, 49, channels). */
int KERNEL(merge)(const Level *level, int n, const int32_t *y, int16_t *t, uint16_t *trace) {
    ptrdiff_t k = PADDED(level->channels), channels = level->merge.outputs;
    int16_t *x = malloc(POSITIONS * k * sizeof *x);
    if (!x) return -1;
    for (int i = 0; i < n; i++) {
        int16_t *image = t + i * POSITIONS * channels;
        uint16_t *clipped = trace ? trace + POSITIONS * k / LANES : NULL;
        dequantize(level->dequantizer, level->channels, POSITIONS, y + i, n, x, trace);
        Output out = {.y = image, .y_step = channels, .plus = image, .plus_high = ACTIVATION_MAX, .trace = clipped,
                      .plus_trace = trace ? clipped + POSITIONS * channels / LANES : NULL};
        apply(&level->merge, x, k, HERE, POSITIONS, &out);
        if (trace) trace += POSITIONS * (k + 2 * channels) / LANES;
    }
    free(x);
    return 0;
}

/* Features of the analysis e int16 (n, 49, channels) -> dense latents int32 (k, n). */
int KERNEL(dense_posterior)(const Layer *squeeze, const Layer *posterior0, const Layer *posterior1, int n, const int16_t *e,
                            int32_t channels, int32_t *y) {
    ptrdiff_t step = PADDED(squeeze->inputs), wide = POSITIONS * squeeze->outputs, width = posterior0->outputs;
    ptrdiff_t both = posterior1->outputs;
    Arena arena = {NULL, 0};
    int16_t *grids = NULL, *h = NULL;
    int32_t *found = NULL;
    for (int pass = 0; pass < 2; pass++) {
        grids = take(&arena, (size_t)n * wide * sizeof *grids);
        h = take(&arena, (size_t)n * width * sizeof *h);
        found = take(&arena, (size_t)n * both * sizeof *found);
        if (!pass && !(arena = (Arena){malloc(arena.used), 0}).memory) return -1;
    }
    for (int i = 0; i < n; i++) dense(squeeze, e + i * POSITIONS * step, step, POSITIONS, grids + i * wide, NULL);
    dense(posterior0, grids, wide, n, h, NULL);
    Output out = {.wide = found, .y_step = both};
    apply(posterior1, h, width, HERE, n, &out);
    for (int i = 0; i < n; i++) scatter(found + i * both, both, channels, 1, y + i, n);
    free(arena.memory);
    return 0;
}

/* e int16 (n, 49, e_channels), t int16 (n, 49, t_channels) -> latents int32 (k, 49, n). */
int KERNEL(posterior)(const Level *level, int n, const int16_t *e, int32_t e_channels, const int16_t *t, int32_t t_channels,
                      int32_t *y) {
    ptrdiff_t joined = e_channels + t_channels, step = PADDED(joined), width = level->posterior0.outputs;
    ptrdiff_t both = level->posterior1.outputs, e_step = PADDED(e_channels), t_step = PADDED(t_channels);
    int32_t *found = calloc(POSITIONS, both * sizeof *found + (step + width) * sizeof(int16_t));
    if (!found) return -1;
    int16_t *x = (int16_t *)(found + POSITIONS * both), *h = x + POSITIONS * step;
    for (int i = 0; i < n; i++) {
        for (int p = 0; p < POSITIONS; p++) {
            memcpy(x + p * step, e + (i * POSITIONS + p) * e_step, e_channels * sizeof *x);
            memcpy(x + p * step + e_channels, t + (i * POSITIONS + p) * t_step, t_channels * sizeof *x);
        }
        dense(&level->posterior0, x, step, POSITIONS, h, NULL);
        Output out = {.wide = found, .y_step = both};
        apply(&level->posterior1, h, width, HERE, POSITIONS, &out);
        scatter(found, both, level->channels, POSITIONS, y + i, n);
    }
    free(found);
    return 0;
}
