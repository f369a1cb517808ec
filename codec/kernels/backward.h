/* Gradients back through the synthesis, for the encoder's search: the twin of `Layer.transposed` and `backward` in codec/model.
 *
 * A gradient is float32, in rows like the features. Before each transposed product it is rounded to integers with few enough
 * bits that all sums stay exact, on a scale of its own for each image. So it is the same in any order and on any machine.
 * Decoding needs nothing of this file.
 */

typedef struct {
    Layer layer;             /* the weight transposed; no bias, no multiplier */
    const float *multiplier; /* of the outputs of the original layer, which are the inputs of this one */
    int32_t bits;            /* inputs are rounded to -2**bits..2**bits */
} Transposed;

typedef struct {
    Transposed reduce, spatial, restore;
} ResidualBack;

typedef struct {
    Transposed prior0, mean, sigma, merge;
    const float *dequantizer;
    int32_t channels, both; /* both: outputs of the prior, padded */
} LevelBack;

typedef struct {
    Transposed start0, start1, widen;
    const float *dequantizer;
    int32_t channels;
} StartBack;

/* Keep `numbers` values of g where the mask of the trace is set, and set the others to 0. */
static void masked(const float *g, const uint16_t *trace, ptrdiff_t numbers, float *out) {
    for (ptrdiff_t i = 0; i < numbers; i += LANES) storef(out + i, keep(loadf(g + i), *trace++));
}

static void added(float *g, const float *more, ptrdiff_t numbers) {
    for (ptrdiff_t i = 0; i < numbers; i += LANES) storef(g + i, addf(loadf(g + i), loadf(more + i)));
}

/* For one image: gradient by the outputs of a layer, float (rows, inputs padded) -> by its inputs, float (rows, outputs).
 * A 3x3 has 49 rows, and q is a grid of zeros except where it is overwritten here; sums has the size of out. */
static void transposed(const Transposed *back, const float *g, int rows, int16_t *q, int32_t *sums, float *out) {
    const Layer *layer = &back->layer;
    ptrdiff_t step = PADDED(layer->inputs), wide = layer->outputs;
    vfloat largest = splatf(0);
    for (int r = 0; r < rows; r++)
        for (ptrdiff_t o = 0; o < step; o += LANES)
            largest = maxf(largest, absf(mulf(loadf(g + r * step + o), loadf(back->multiplier + o))));
    float lanes[LANES], size = 0;
    storef(lanes, largest);
    for (int i = 0; i < LANES; i++) size = lanes[i] > size ? lanes[i] : size;
    int exponent;
    frexpf(size, &exponent);
    if (exponent < -64) exponent = -64;
    vfloat scale = splatf(ldexpf(1, back->bits - exponent)), unscale = splatf(ldexpf(1, exponent - back->bits));
    for (int r = 0; r < rows; r++) {
        int16_t *to = q + (layer->taps == 1 ? r : GRID_AT(r / SIDE, r % SIDE)) * step;
        for (ptrdiff_t o = 0; o < step; o += LANES)
            store16(to + o, to_int(mulf(mulf(loadf(g + r * step + o), loadf(back->multiplier + o)), scale)));
    }
    Output raw = {.sums = sums, .y_step = wide};
    if (layer->taps == 1) {
        apply(layer, q, step, HERE, rows, &raw);
    } else {
        ptrdiff_t taps[9];
        neighbours(step, taps);
        for (int y = 0; y < SIDE; y++, raw.sums += SIDE * wide)
            apply(layer, q + GRID_AT(y, 0) * step, step, taps, SIDE, &raw);
    }
    for (ptrdiff_t i = 0; i < rows * wide; i += LANES) storef(out + i, mulf(to_float(load(sums + i)), unscale));
}

/* Scratch memory for one image whose layers have at most `width` numbers per row. */
typedef struct {
    float *f, *g, *h;
    int32_t *sums;
    int16_t *q, *grid;
} Scratch;

static Scratch scratch_of(Arena *arena, size_t width) {
    Scratch s;
    s.f = take(arena, POSITIONS * width * sizeof *s.f);
    s.g = take(arena, POSITIONS * width * sizeof *s.g);
    s.h = take(arena, POSITIONS * width * sizeof *s.h);
    s.sums = take(arena, POSITIONS * width * sizeof *s.sums);
    s.q = take(arena, POSITIONS * width * sizeof *s.q);
    s.grid = take(arena, GRID_ROWS * width * sizeof *s.grid);
    return s;
}

/* Zeroed memory for the scratch of one image; the caller calls free(*memory). */
static Scratch scratch(char **memory, size_t width) {
    Arena arena = {NULL, 0};
    scratch_of(&arena, width);
    arena = (Arena){*memory = calloc(1, arena.used), 0};
    return scratch_of(&arena, width);
}

static size_t widest(size_t width, const Transposed *back) {
    size_t inputs = PADDED(back->layer.inputs), outputs = back->layer.outputs;
    width = inputs > width ? inputs : width;
    return outputs > width ? outputs : width;
}

/* Gradient by pixels float (n, 28, 28) -> by t, float (n, 49, channels). */
int KERNEL(unpatches_backward)(const Transposed *output, int n, const float *g_pixels, float *g) {
    char *memory;
    Scratch s = scratch(&memory, widest(PATCH * PATCH, output));
    if (!memory) return -1;
    for (int i = 0; i < n; i++) {
        const float *image = g_pixels + (ptrdiff_t)i * IMAGE_SIDE * IMAGE_SIDE;
        for (int y = 0; y < IMAGE_SIDE; y++)
            for (int x = 0; x < IMAGE_SIDE; x++)
                s.g[(y / PATCH * SIDE + x / PATCH) * PATCH * PATCH + y % PATCH * PATCH + x % PATCH] = image[y * IMAGE_SIDE + x];
        transposed(output, s.g, POSITIONS, s.q, s.sums, g + (ptrdiff_t)i * POSITIONS * output->layer.outputs);
    }
    free(memory);
    return 0;
}

/* Gradient by the output of `residuals` -> by its input, float (n, 49, channels), in place; trace: the one it wrote. */
int KERNEL(residuals_backward)(const ResidualBack *blocks, int count, int n, float *g, const uint16_t *trace) {
    if (!count) return 0;
    char *memory;
    size_t most = 0, channels = blocks->reduce.layer.outputs, words = 0;
    for (int b = 0; b < count; b++) {
        most = widest(widest(widest(most, &blocks[b].reduce), &blocks[b].spatial), &blocks[b].restore);
        words += POSITIONS * (2 * channels + blocks[b].spatial.layer.outputs + PADDED(blocks[b].spatial.layer.inputs)) / LANES;
    }
    Scratch s = scratch(&memory, most);
    if (!memory) return -1;
    for (int i = 0; i < n; i++, g += POSITIONS * channels, trace += words) {
        const uint16_t *end = trace + words;
        for (int b = count - 1; b >= 0; b--) {
            const ResidualBack *block = blocks + b;
            ptrdiff_t wide = POSITIONS * (ptrdiff_t)channels, narrow = POSITIONS * (ptrdiff_t)block->spatial.layer.outputs;
            ptrdiff_t inner = POSITIONS * (ptrdiff_t)PADDED(block->spatial.layer.inputs);
            if (inner != POSITIONS * (ptrdiff_t)PADDED(blocks[(b + 1) % count].spatial.layer.inputs)) /* other rows */
                memset(s.grid, 0, GRID_ROWS * most * sizeof *s.grid);
            masked(g, end - wide / LANES, wide, g);
            masked(g, end - 2 * wide / LANES, wide, s.g);
            end -= (2 * wide + narrow + inner) / LANES;
            transposed(&block->restore, s.g, POSITIONS, s.q, s.sums, s.h);
            masked(s.h, end + narrow / LANES, inner, s.h);
            transposed(&block->spatial, s.h, POSITIONS, s.grid, s.sums, s.g);
            masked(s.g, end, narrow, s.g);
            transposed(&block->reduce, s.g, POSITIONS, s.q, s.sums, s.h);
            added(g, s.h, wide);
        }
    }
    free(memory);
    return 0;
}

/* Rows of one image, float (positions, step) -> float (channels, positions), `images` numbers apart. */
static void scatter_floats(const float *rows, ptrdiff_t step, int channels, int positions, float *y, ptrdiff_t images) {
    for (int p = 0; p < positions; p++)
        for (int k = 0; k < channels; k++) y[((ptrdiff_t)k * positions + p) * images] = rows[p * step + k];
}

/* Gradient by dequantized latents, in rows -> by the latents, in the coder's order. */
static void dequantize_backward(const float *dequantizer, int channels, int positions, float *rows, const uint16_t *trace,
                                float *g_y, ptrdiff_t images) {
    ptrdiff_t step = PADDED(channels);
    masked(rows, trace, positions * step, rows);
    for (int p = 0; p < positions; p++)
        for (ptrdiff_t k = 0; k < step; k += LANES)
            storef(rows + p * step + k, mulf(loadf(rows + p * step + k), loadf(dequantizer + k)));
    scatter_floats(rows, step, channels, positions, g_y, images);
}

/* Gradient by t after `merge`, float (n, 49, channels) -> by t before `prior`, in place, and by the latents, g_y float
 * (k, 49, n). g_rows: gradient by the rows of the CDF table, float (k, 49, n). Latents move with their means. */
int KERNEL(level_backward)(const LevelBack *level, int n, float *g, const float *g_rows, const uint16_t *prior_trace,
                           const uint16_t *merge_trace, float *g_y) {
    char *memory;
    ptrdiff_t k = PADDED(level->channels), wide = POSITIONS * (ptrdiff_t)PADDED(level->merge.layer.inputs);
    ptrdiff_t width = POSITIONS * (ptrdiff_t)level->mean.layer.outputs, both = POSITIONS * (ptrdiff_t)level->both;
    size_t most = widest(widest(widest(widest((size_t)level->both, &level->prior0), &level->mean), &level->sigma), &level->merge);
    Scratch s = scratch(&memory, most);
    if (!memory) return -1;
    for (int i = 0; i < n; i++, g += wide) {
        masked(g, merge_trace + (POSITIONS * k + wide) / LANES, wide, g);
        masked(g, merge_trace + POSITIONS * k / LANES, wide, s.g);
        transposed(&level->merge, s.g, POSITIONS, s.q, s.sums, s.h);
        dequantize_backward(level->dequantizer, level->channels, POSITIONS, s.h, merge_trace, g_y + i, n);
        /* s.h is the gradient by the means. The one by the rows counts only where a row was not clipped. Masks: means, rows. */
        transposed(&level->mean, s.h, POSITIONS, s.q, s.sums, s.g);
        for (int p = 0; p < POSITIONS; p++)
            for (ptrdiff_t c = 0; c < k; c++) {
                ptrdiff_t at = level->channels + c;
                const uint16_t *mask = prior_trace + (width + p * level->both + at) / LANES;
                int kept = c < level->channels && *mask >> at % LANES & 1;
                s.f[p * k + c] = kept ? g_rows[((ptrdiff_t)c * POSITIONS + p) * n + i] : 0;
            }
        transposed(&level->sigma, s.f, POSITIONS, s.q, s.sums, s.f);
        added(s.g, s.f, width);
        masked(s.g, prior_trace, width, s.g);
        transposed(&level->prior0, s.g, POSITIONS, s.q, s.sums, s.h);
        added(g, s.h, wide);
        merge_trace += (POSITIONS * k + 2 * wide) / LANES;
        prior_trace += (width + both) / LANES;
    }
    free(memory);
    return 0;
}

/* Gradient by the output of `start`, float (n, 49, channels) -> by the dense latents, g_y float (k, n). */
int KERNEL(start_backward)(const StartBack *start, int n, const float *g, const uint16_t *trace, float *g_y) {
    ptrdiff_t k = PADDED(start->channels), width = PADDED(start->start0.layer.inputs), wide = PADDED(start->start1.layer.inputs);
    ptrdiff_t channels = PADDED(start->widen.layer.inputs);
    const uint16_t *masks[4] = {trace, trace + n * k / LANES, trace + n * (k + width) / LANES,
                                trace + n * (k + width + wide) / LANES};
    char *memory;
    size_t rows = widest(wide / POSITIONS, &start->widen), alone = widest(widest(0, &start->start1), &start->start0);
    Scratch s = scratch(&memory, rows * POSITIONS > alone ? rows : (alone + POSITIONS - 1) / POSITIONS);
    if (!memory) return -1;
    for (int i = 0; i < n; i++) {
        masked(g + i * POSITIONS * channels, masks[3] + i * POSITIONS * channels / LANES, POSITIONS * channels, s.g);
        transposed(&start->widen, s.g, POSITIONS, s.q, s.sums, s.h);
        masked(s.h, masks[2] + i * wide / LANES, wide, s.h);
        transposed(&start->start1, s.h, 1, s.q, s.sums, s.g);
        masked(s.g, masks[1] + i * width / LANES, width, s.g);
        transposed(&start->start0, s.g, 1, s.q, s.sums, s.h);
        dequantize_backward(start->dequantizer, start->channels, 1, s.h, masks[0] + i * k / LANES, g_y + i, n);
    }
    free(memory);
    return 0;
}
