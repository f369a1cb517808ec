/* Integer layers: the twin of `Layer` in codec/model/layers.py.  FORMAT.md 6.
 *
 *     y = clip(rint(float32(sum + bias) * multiplier), low, high)          sum = weight * x
 *
 * READ ME FIRST
 * - Numbers are stored in rows, one row per position (or image), channels innermost and padded with zeros to a multiple of PAD:
 *   x int16 (rows, x_step). Weights are applied to a row from its start to its end: no axis is moved, nothing is copied.
 * - A 3x3 convolution is the same loop over nine "taps": earlier and later rows at fixed distances. Its input lies in a grid with
 *   zeros around it (see GRID_ROWS), so that no tap has to be skipped at the border.
 * - Most of the time goes into `tile`: it sums TILE_ROWS rows by TILE_VECTORS vectors of outputs in registers.
 */

typedef struct {
    int32_t inputs, outputs; /* channels; outputs padded to a multiple of PAD */
    int32_t taps;            /* 1, or 9 of a 3x3 */
    int32_t bias_step;       /* 0: one bias for all rows; outputs: a bias for each row */
    const int32_t *weight;   /* in the order that `pack` writes */
    const int32_t *bias;     /* (1 or rows, outputs) */
    const float *multiplier; /* (outputs) */
    const int32_t *low;      /* (outputs) */
    const int32_t *high;     /* (outputs) */
} Layer;

#ifndef BACKWARD
#define BACKWARD 1 /* 0: a library that only decodes leaves out `sums` and the traces */
#endif

/* Where the results of a layer go; NULL for what is not wanted. */
typedef struct {
    int16_t *y;           /* (rows, y_step) */
    int32_t *wide;        /* instead of y, for results that need more than 16 bits */
    int32_t *sums;        /* instead of y, sum + bias before scaling */
    ptrdiff_t y_step;     /* numbers from one row of the result to the next */
    const int16_t *plus;  /* added to the result, (rows, y_step); the sum is clipped to plus_high */
    int32_t plus_high;    /* -plus_high..plus_high */
    uint16_t *trace;      /* which results were not clipped: a mask for each vector, (rows, outputs / LANES) */
    uint16_t *plus_trace; /* the same of the sums with `plus` */
} Output;

enum { SIDE = 7, POSITIONS = SIDE * SIDE };
/* A grid with zeros around it: 7 rows of 8. The eighth is always zero; it is the right neighbour of its own row and the left
 * neighbour of the next one. Position (y, x) is row GRID_AT(y, x). */
enum { GRID_STEP = SIDE + 1, GRID_ROWS = (SIDE + 2) * GRID_STEP + 2 };
#define GRID_AT(y, x) (1 + ((y) + 1) * GRID_STEP + (x))
#define PADDED(n) (((n) + PAD - 1) / PAD * PAD)

/* weight int16 (outputs, inputs, taps) -> packed int32 (taps * pairs of inputs * outputs padded): for each panel of
 * TILE_VECTORS vectors of outputs, tap by tap and pair by pair, in the order in which `tile` reads. */
int KERNEL(pack)(const int16_t *weight, int32_t outputs, int32_t inputs, int32_t taps, int32_t *packed) {
    int32_t padded = PADDED(outputs);
    for (int32_t at = 0; at < padded; at += TILE_VECTORS * LANES) {
        int32_t end = at + TILE_VECTORS * LANES < padded ? at + TILE_VECTORS * LANES : padded;
        for (int32_t tap = 0; tap < taps; tap++)
            for (int32_t k = 0; k < inputs; k += 2)
                for (int32_t o = at; o < end; o++) {
                    int16_t both[2] = {0, 0};
                    for (int32_t i = 0; i < 2 && k + i < inputs && o < outputs; i++)
                        both[i] = weight[((ptrdiff_t)o * inputs + k + i) * taps + tap];
                    memcpy(packed++, both, sizeof both);
                }
    }
    return 0;
}

INLINE vint pair(const int16_t *p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return splat(both);
}

/* `rows` by `vectors` results, from output `at` on. Both are constants wherever this is inlined, so sums stay in registers. */
INLINE void tile(const int rows, const int vectors, const Layer *layer, int at, const int32_t *weight, const int16_t *x,
                 ptrdiff_t x_step, const ptrdiff_t *taps, int row, const Output *out) {
    vint sum[TILE_ROWS][TILE_VECTORS];
    const int32_t *bias = layer->bias + (ptrdiff_t)row * layer->bias_step + at;
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = load(bias + m * layer->bias_step + v * LANES);
    for (int tap = 0; tap < layer->taps; tap++) {
        const int16_t *from = x + (ptrdiff_t)row * x_step + taps[tap];
        for (int k = 0; k < layer->inputs; k += 2, weight += vectors * LANES) {
            vint w[TILE_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) w[v] = load(weight + v * LANES);
            UNROLL for (int m = 0; m < rows; m++) {
                vint both = pair(from + m * x_step + k);
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = dot(sum[m][v], both, w[v]);
            }
        }
    }
    if (BACKWARD && out->sums) {
        UNROLL for (int m = 0; m < rows; m++)
            UNROLL for (int v = 0; v < vectors; v++) store(out->sums + (row + m) * out->y_step + at + v * LANES, sum[m][v]);
        return;
    }
    UNROLL for (int v = 0; v < vectors; v++) {
        int o = at + v * LANES, trace_step = layer->outputs / LANES;
        vfloat multiplier = loadf(layer->multiplier + o);
        vint low = load(layer->low + o), high = load(layer->high + o);
        UNROLL for (int m = 0; m < rows; m++) {
            ptrdiff_t to = (row + m) * out->y_step + o;
            vint y = clip(requantize(sum[m][v], multiplier), low, high);
            if (BACKWARD && out->trace) out->trace[(row + m) * trace_step + o / LANES] = (uint16_t)inside(y, low, high);
            if (out->plus) {
                vint least = splat(-out->plus_high), most = splat(out->plus_high);
                y = clip(add(y, load16(out->plus + to)), least, most);
                if (BACKWARD && out->plus_trace) out->plus_trace[(row + m) * trace_step + o / LANES] = (uint16_t)inside(y, least, most);
            }
            if (out->wide) store(out->wide + to, y);
            else store16(out->y + to, y);
        }
    }
}

#define TILE(rows, vectors) tile(rows, vectors, layer, at, weight, x, x_step, taps, row, out)

/* Rows first..first + rows of a panel of `vectors` vectors, as many at once as registers hold. */
INLINE void panel(const int vectors, const Layer *layer, int at, const int32_t *weight, const int16_t *x, ptrdiff_t x_step,
                  const ptrdiff_t *taps, int rows, const Output *out) {
    int row = 0;
    for (; row + TILE_ROWS <= rows; row += TILE_ROWS) TILE(TILE_ROWS, vectors);
    switch (rows - row) {
#if defined(__AVX512BW__) || defined(__ARM_NEON)
    case 6: TILE(6, vectors); break;
    case 5: TILE(5, vectors); break;
    case 4: TILE(4, vectors); break;
#endif
    case 3: TILE(3, vectors); break;
    case 2: TILE(2, vectors); break;
    case 1: TILE(1, vectors); break;
    }
}

/* Rows of x, x_step numbers apart -> rows of results. taps: the distance from a row to the row of each tap. */
static void apply(const Layer *layer, const int16_t *x, ptrdiff_t x_step, const ptrdiff_t *taps, int rows, const Output *out) {
    const int32_t *weight = layer->weight;
    ptrdiff_t pairs = (ptrdiff_t)layer->taps * ((layer->inputs + 1) / 2);
    for (int at = 0; at < layer->outputs; at += TILE_VECTORS * LANES) {
        int vectors = (layer->outputs - at) / LANES;
        if (vectors >= 3 && TILE_VECTORS >= 3) panel(TILE_VECTORS, layer, at, weight, x, x_step, taps, rows, out);
        else if (vectors >= 2) panel(2, layer, at, weight, x, x_step, taps, rows, out);
        else panel(1, layer, at, weight, x, x_step, taps, rows, out);
        weight += pairs * TILE_VECTORS * LANES;
    }
}

static const ptrdiff_t HERE[1] = {0};

/* A layer without convolution, into y int16 (rows, outputs). */
static void dense(const Layer *layer, const int16_t *x, ptrdiff_t x_step, int rows, int16_t *y, uint16_t *trace) {
    Output out = {.y = y, .y_step = layer->outputs, .trace = trace};
    apply(layer, x, x_step, HERE, rows, &out);
}

/* The distances of the nine neighbours in a grid with rows of `step` numbers. */
static void neighbours(ptrdiff_t step, ptrdiff_t taps[9]) {
    for (int tap = 0; tap < 9; tap++) taps[tap] = ((tap / 3 - 1) * GRID_STEP + tap % 3 - 1) * step;
}
