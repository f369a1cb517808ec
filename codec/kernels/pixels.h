/* The pixel model: the twin of the lossless model in codec/model, all pixels of a batch of images in one call.  FORMAT.md 8.
 *
 * READ ME FIRST
 * - All images are at the same pixel and go through a layer together, CHUNK of them at a time: rows are images. Each weight
 *   is read once per chunk, and what a chunk needs between its layers stays in the nearest cache.
 * - Encoder and decoder run the same loop, `run`. It asks the Coder for each symbol: an encoder looks it up and notes its
 *   interval, a decoder finds it in the bytes. Damaged bytes are symbols, too: any bytes lead to some choice.
 * - Rows of tables and of activations have a multiple of PAD numbers; the ones after the last real number are 0.
 * Functions return 0, or -1 if there is no memory.
 */
enum {
    PIXELS = IMAGE_SIDE * IMAGE_SIDE,
    VALUES = 256,
    RADIUS = 6, /* of the window */
    ROW_WINDOW = 2 * RADIUS + 1,
    WINDOW = RADIUS * ROW_WINDOW + RADIUS, /* pixels in it */
    NUM_NEIGHBOURS = 12,
    NUM_LINKED = 4, /* neighbours that say whether a pixel is live, and whose links reach it */
    NO_INK = 28,    /* row and column of the first ink while there is none */
    SUM_SHIFT = 5,
    FIRST_MAX = 1 << 22,
    FLAG_MAX = 511,
    EXP_ENTRIES = 512,
    SPREAD = TOTAL - VALUES,
    CANVAS_STEP = IMAGE_SIDE + 2 * RADIUS, /* zeros around the image: above it and to either side */
    CANVAS = (IMAGE_SIDE + RADIUS) * CANVAS_STEP,
    LINK_COLUMNS = IMAGE_SIDE + 2,
    CHUNK = 112, /* a multiple of every TILE_ROWS */
    FLAG_INPUTS = PADDED(2 * WINDOW),
};
/* Row and column of the neighbours, the nearest first. */
static const int8_t NEIGHBOURS[NUM_NEIGHBOURS][2] = {{0, -1}, {-1, 0},  {-1, -1}, {-1, 1},  {0, -2}, {-2, 0},
                                                     {-1, 2}, {-2, 1}, {-2, -1}, {-1, -2}, {0, -3}, {-3, 0}};

/* What a pixel adds to the sums of one network: by its place, by place times value, and by value. */
typedef struct {
    const int16_t *ink, *shade; /* (PIXELS, outputs padded) */
    const int16_t *count;       /* (VALUES, outputs padded) */
    int32_t outputs;
} Sums;

typedef struct {
    Layer window, logit;
    Sums sums;
    const int16_t *position, *top, *left; /* (PIXELS, NO_INK + 1, 2 * NO_INK; outputs padded) */
    const int32_t *zero_freq;             /* (2 * FLAG_MAX + 1) */
} FlagNet;

typedef struct {
    Layer input, head;
    const Layer *links, *hidden; /* the input of hidden is a row z: h, then the links of each neighbour, each padded */
    Sums sums;
    const int16_t *near;     /* (NUM_NEIGHBOURS, VALUES, near_width padded) */
    const int16_t *position; /* (PIXELS, h padded) */
    const int16_t *flagged;  /* (h padded) */
    const int16_t *palette;  /* (palettes, h padded) */
    const int16_t *logits;   /* of each palette (palettes, VALUES) */
    const uint32_t *exp;     /* (EXP_ENTRIES) */
    int32_t num_layers, near_width;
} ValueNet;

typedef struct {
    FlagNet flag;
    ValueNet value;
} PixelModel;

/* The state of n images while they are coded. */
typedef struct {
    int n;
    const int32_t *palette;
    int16_t *canvas;                 /* (n, CANVAS) */
    uint8_t *top, *left, *flagged;   /* (n) */
    int32_t *flag_sums, *value_sums; /* (n, outputs padded) */
    int16_t *above, *here;           /* links of the row above and of this row: (layers, LINK_COLUMNS, n, width padded) */
} State;

/* Scratch memory of one chunk of images. */
typedef struct {
    int16_t *x, *h, *z, *link;
    int32_t *wide;
    int32_t x_step, z_step;
} Rows;

/* Where symbols come from and where they go. */
typedef struct {
    int32_t group;         /* images that share a lane */
    const uint8_t *pixels; /* (n, PIXELS) to encode; NULL: the lanes are decoded */
    uint32_t *codes;       /* (lanes, PIXELS, 2, group): of each pixel the flag and the value, see `code` of rans.h */
    int64_t *costs;        /* (n), cost of the symbols of each image */
    const int32_t *cost;   /* (TOTAL + 1), cost of a symbol, by its frequency */
    Lane *lanes;
    const uint8_t *bytes;
} Coder;

/* Note a symbol of an image. step: 0 for the flag, 1 for the value. */
INLINE void note(const Coder *coder, int pixel, int step, int image, uint32_t start, uint32_t freq) {
    ptrdiff_t group = coder->group;
    coder->codes[((image / group * PIXELS + pixel) * 2 + step) * group + image % group] = code(start, freq);
    coder->costs[image] += coder->cost[freq];
}

/* Whether a pixel is not 0; `zero` is the frequency of 0. */
static int code_flag(const Coder *coder, int pixel, int image, uint32_t zero) {
    if (coder->pixels) {
        int flag = coder->pixels[(ptrdiff_t)image * PIXELS + pixel] > 0;
        note(coder, pixel, 0, image, flag ? zero : 0, flag ? TOTAL - zero : zero);
        return flag;
    }
    Lane *lane = coder->lanes + image / coder->group;
    int flag = (refilled(lane, coder->bytes) & (TOTAL - 1)) >= zero;
    advance(lane, flag ? zero : 0, flag ? TOTAL - zero : zero);
    return flag;
}

/* The value of a pixel. */
static int code_value(const Coder *coder, int pixel, int image, const uint32_t freq[VALUES]) {
    uint32_t start = 0;
    if (coder->pixels) {
        int value = coder->pixels[(ptrdiff_t)image * PIXELS + pixel];
        for (int v = 0; v < value; v++) start += freq[v];
        note(coder, pixel, 1, image, start, freq[value]);
        return value;
    }
    Lane *lane = coder->lanes + image / coder->group;
    uint32_t slot = refilled(lane, coder->bytes) & (TOTAL - 1);
    int value = 0;
    while (slot - start >= freq[value]) start += freq[value++]; /* ends, because slot is below the sum of all, TOTAL */
    advance(lane, start, freq[value]);
    return value;
}

/* Integer logits -> frequencies with the sum TOTAL. */
static void softmax(const uint32_t *exp, const int32_t logits[VALUES], uint32_t freq[VALUES]) {
    int32_t most = logits[0];
    for (int v = 1; v < VALUES; v++) most = logits[v] > most ? logits[v] : most;
    int best = 0;
    while (logits[best] != most) best++;
    uint32_t sum = 0, rest = TOTAL - VALUES;
    for (int v = 0; v < VALUES; v++) {
        int32_t below = most - logits[v];
        freq[v] = exp[below < EXP_ENTRIES - 1 ? below : EXP_ENTRIES - 1];
        sum += freq[v];
    }
    uint32_t scale = ((uint32_t)SPREAD << 16) / sum; /* one weight is 2**16, so this is < 2**16 */
    for (int v = 0; v < VALUES; v++) {
        uint32_t share = freq[v] * scale >> 16; /* product < 2**32, since a weight is at most the sum */
        rest -= share;
        freq[v] = share + 1;
    }
    freq[best] += rest;
}

/* For tests: logits int32 (n, VALUES) -> frequencies uint32 (n, VALUES). */
int KERNEL(frequencies)(const uint32_t *exp, int n, const int32_t *logits, uint32_t *freq) {
    for (ptrdiff_t i = 0; i < n; i++) softmax(exp, logits + i * VALUES, freq + i * VALUES);
    return 0;
}

INLINE const int16_t *canvas_at(const State *s, int image, int pixel) {
    int y = pixel / IMAGE_SIDE, x = pixel % IMAGE_SIDE;
    return s->canvas + (ptrdiff_t)image * CANVAS + (y + RADIUS) * CANVAS_STEP + x + RADIUS;
}

INLINE int live(const int16_t *at) {
    return (at[-1] | at[-CANVAS_STEP] | at[-CANVAS_STEP - 1] | at[-CANVAS_STEP + 1]) != 0;
}

/* Values of the pixels of the window around `at`, row by row. */
INLINE void window(const int16_t *at, int16_t *x) {
    for (int row = 0; row < RADIUS; row++)
        memcpy(x + row * ROW_WINDOW, at + (row - RADIUS) * CANVAS_STEP - RADIUS, ROW_WINDOW * sizeof *x);
    memcpy(x + RADIUS * ROW_WINDOW, at - RADIUS, RADIUS * sizeof *x);
}

/* Set the pixel to a value, 1..255. */
static void add_to(const Sums *sums, int pixel, int value, int32_t *sum) {
    int outputs = PADDED(sums->outputs);
    const int16_t *ink = sums->ink + (ptrdiff_t)pixel * outputs, *shade = sums->shade + (ptrdiff_t)pixel * outputs;
    const int16_t *count = sums->count + (ptrdiff_t)value * outputs;
    for (int z = 0; z < outputs; z++) sum[z] += ((value * shade[z] + 64) >> 7) + ink[z] + count[z];
}

static void draw(const PixelModel *model, State *s, int pixel, int image, int value) {
    int y = pixel / IMAGE_SIDE, x = pixel % IMAGE_SIDE;
    s->canvas[(ptrdiff_t)image * CANVAS + (y + RADIUS) * CANVAS_STEP + x + RADIUS] = (int16_t)value;
    if (y < s->top[image]) s->top[image] = (uint8_t)y;
    if (x < s->left[image]) s->left[image] = (uint8_t)x;
    const Sums *flag = &model->flag.sums, *value_sums = &model->value.sums;
    add_to(flag, pixel, value, s->flag_sums + (ptrdiff_t)image * PADDED(flag->outputs));
    add_to(value_sums, pixel, value, s->value_sums + (ptrdiff_t)image * PADDED(value_sums->outputs));
}

/* Integers in units of 2**-10 -> activations, `least`..ACTIVATION_MAX. */
INLINE vint activations(vint a, int least) {
    return clip(requantize(a, splatf(0.125f)), splat(least), splat(ACTIVATION_MAX));
}

/* -> the frequency of 0 at a pixel, for m images. blank: the result of the window layer where there is no ink. */
static void flag_frequencies(const FlagNet *net, int pixel, const State *s, const int32_t *images, int m,
                             const int32_t *blank, Rows *t, uint32_t *zero) {
    int width = net->window.outputs, y = pixel / IMAGE_SIDE, column = pixel % IMAGE_SIDE, inked = 0;
    int32_t row[CHUNK]; /* row in `wide`, or -1: most of these pixels have nothing around them */
    for (int i = 0; i < m; i++) {
        row[i] = -1;
        if (s->top[images[i]] == NO_INK) continue;
        int16_t *x = t->x + inked * FLAG_INPUTS, any = 0;
        window(canvas_at(s, images[i], pixel), x);
        for (int k = 0; k < WINDOW; k++) any |= x[k];
        if (!any) continue;
        for (int k = 0; k < WINDOW; k++) x[WINDOW + k] = x[k] ? 128 : 0;
        row[i] = inked++;
    }
    Output first = {.wide = t->wide, .y_step = width};
    apply(&net->window, t->x, FLAG_INPUTS, HERE, inked, &first);
    const int16_t *position = net->position + (ptrdiff_t)pixel * width;
    for (int i = 0; i < m; i++) {
        int image = images[i], from = s->top[image], side = s->left[image];
        const int32_t *a = row[i] < 0 ? blank : t->wide + row[i] * width;
        const int32_t *sum = s->flag_sums + (ptrdiff_t)image * width;
        const int16_t *top = net->top + (from == NO_INK ? NO_INK : y - from) * width;
        const int16_t *left = net->left + (side == NO_INK ? 2 * NO_INK - 1 : column - side + NO_INK - 1) * width;
        for (int z = 0; z < width; z += LANES) {
            vint all = add(load(a + z), clip(load(sum + z), splat(-FIRST_MAX), splat(FIRST_MAX)));
            all = add(add(all, load16(position + z)), add(load16(top + z), load16(left + z)));
            store16(t->h + i * width + z, activations(all, 0));
        }
    }
    dense(&net->logit, t->h, width, m, t->z, NULL);
    for (int i = 0; i < m; i++) zero[i] = (uint32_t)net->zero_freq[t->z[i * net->logit.outputs] + FLAG_MAX];
}

/* The inputs of the big network for one image: window, sums, values of the neighbours. */
static void value_inputs(const ValueNet *net, const int16_t *at, const int32_t *sum, int16_t *x) {
    window(at, x);
    x += WINDOW;
    for (int z = 0; z < net->sums.outputs; z++) {
        int32_t a = (sum[z] + (1 << (SUM_SHIFT - 1))) >> SUM_SHIFT;
        x[z] = (int16_t)(a < -ACTIVATION_MAX ? -ACTIVATION_MAX : a > ACTIVATION_MAX ? ACTIVATION_MAX : a);
    }
    x += net->sums.outputs;
    int width = PADDED(net->near_width);
    for (int k = 0; k < NUM_NEIGHBOURS; k++, x += net->near_width) {
        int value = at[NEIGHBOURS[k][0] * CANVAS_STEP + NEIGHBOURS[k][1]];
        const int16_t *near = net->near + ((ptrdiff_t)k * VALUES + value) * width;
        for (int e = 0; e < width; e += PAD) memcpy(x + e, near + e, PAD * sizeof *x); /* the next one fills the rest */
    }
}

/* h -> its part of z, with negative numbers as 0. */
INLINE void rectify(const int16_t *h, int width, int m, int16_t *z, int z_step) {
    for (int i = 0; i < m; i++)
        for (int k = 0; k < width; k++) z[i * z_step + k] = h[i * width + k] > 0 ? h[i * width + k] : 0;
}

/* -> the logits of the values at a pixel, int32 (m, VALUES) in t->wide, for m images. */
static void value_logits(const ValueNet *net, int pixel, State *s, const int32_t *images, int m, Rows *t) {
    int width = net->input.outputs, column = pixel % IMAGE_SIDE, sums = PADDED(net->sums.outputs);
    for (int i = 0; i < m; i++) {
        const int32_t *sum = s->value_sums + (ptrdiff_t)images[i] * sums;
        value_inputs(net, canvas_at(s, images[i], pixel), sum, t->x + i * t->x_step);
    }
    Output first = {.wide = t->wide, .y_step = width};
    apply(&net->input, t->x, t->x_step, HERE, m, &first);
    const int16_t *position = net->position + (ptrdiff_t)pixel * width;
    for (int i = 0; i < m; i++) {
        const int16_t *palette = net->palette + (ptrdiff_t)s->palette[images[i]] * width;
        for (int k = 0; k < width; k += LANES) {
            vint a = add(load(t->wide + i * width + k), add(load16(position + k), load16(palette + k)));
            if (s->flagged[images[i]]) a = add(a, load16(net->flagged + k));
            store16(t->h + i * width + k, activations(a, -ACTIVATION_MAX));
        }
    }
    rectify(t->h, width, m, t->z, t->z_step);
    for (int layer = 0; layer < net->num_layers; layer++) {
        int link = net->links[layer].outputs;
        ptrdiff_t of_column = (ptrdiff_t)s->n * link, at = ((ptrdiff_t)layer * LINK_COLUMNS + column + 1) * of_column;
        for (int i = 0; i < m; i++)
            for (int k = 0; k < NUM_LINKED; k++) {
                const int16_t *from = (NEIGHBOURS[k][0] ? s->above : s->here) + at + NEIGHBOURS[k][1] * of_column;
                int16_t *to = t->z + i * t->z_step + width + k * link;
                from += (ptrdiff_t)images[i] * link;
                for (int e = 0; e < link; e += PAD) memcpy(to + e, from + e, PAD * sizeof *to);
            }
        dense(net->links + layer, t->z, t->z_step, m, t->link, NULL);
        for (int i = 0; i < m; i++)
            memcpy(s->here + at + (ptrdiff_t)images[i] * link, t->link + i * link, link * sizeof *t->link);
        Output sum = {.y = t->h, .y_step = width, .plus = t->h, .plus_high = ACTIVATION_MAX};
        apply(net->hidden + layer, t->z, t->z_step, HERE, m, &sum);
        rectify(t->h, width, m, t->z, t->z_step);
    }
    Output logits = {.wide = t->wide, .y_step = VALUES};
    apply(&net->head, t->z, t->z_step, HERE, m, &logits);
    for (int i = 0; i < m; i++) {
        const int16_t *palette = net->logits + (ptrdiff_t)s->palette[images[i]] * VALUES;
        for (int v = 0; v < VALUES; v++) t->wide[i * VALUES + v] += palette[v];
    }
}

INLINE int larger(int x, int y) { return x > y ? x : y; }

/* All pixels of those among n images that are `active` (uint8 (n)) -> uint8 (n, PIXELS), unless `pixels` is NULL. */
static int run(const PixelModel *model, const Coder *coder, int n, const uint8_t *active, const int32_t *palette,
               uint8_t *pixels) {
    const FlagNet *flag = &model->flag;
    const ValueNet *value = &model->value;
    ptrdiff_t width = value->input.outputs, flag_width = flag->window.outputs, chunk = n < CHUNK ? n : CHUNK;
    ptrdiff_t link = value->num_layers ? value->links->outputs : 0;
    size_t links = (size_t)value->num_layers * LINK_COLUMNS * n * link * sizeof(int16_t);
    State s = {.n = n, .palette = palette};
    /* A neighbour's padding may be written past the end of a row of inputs. */
    int32_t x_step = larger(PADDED(value->input.inputs) + PAD, FLAG_INPUTS);
    Rows t = {.x_step = x_step, .z_step = (int32_t)(width + NUM_LINKED * link)};
    int32_t *blank, *images, *asked;
    Arena arena = {NULL, 0};
    for (int pass = 0; pass < 2; pass++) { /* the first pass only adds up the size */
        s.canvas = take(&arena, (size_t)n * CANVAS * sizeof *s.canvas);
        s.top = take(&arena, n);
        s.left = take(&arena, n);
        s.flagged = take(&arena, n);
        s.flag_sums = take(&arena, (size_t)n * flag_width * sizeof *s.flag_sums);
        s.value_sums = take(&arena, (size_t)n * PADDED(value->sums.outputs) * sizeof *s.value_sums);
        s.above = take(&arena, links);
        s.here = take(&arena, links);
        images = take(&arena, n * sizeof *images);
        asked = take(&arena, n * sizeof *asked);
        blank = take(&arena, flag_width * sizeof *blank);
        t.x = take(&arena, chunk * t.x_step * sizeof *t.x);
        t.h = take(&arena, chunk * larger((int)width, (int)flag_width) * sizeof *t.h);
        t.z = take(&arena, chunk * larger(t.z_step, PAD) * sizeof *t.z);
        t.link = take(&arena, chunk * link * sizeof *t.link);
        t.wide = take(&arena, chunk * larger(VALUES, larger((int)width, (int)flag_width)) * sizeof *t.wide);
        if (!pass && !(arena = (Arena){calloc(arena.used, 1), 0}).memory) return -1;
    }
    memset(s.top, NO_INK, n);
    memset(s.left, NO_INK, n);
    Output nothing = {.wide = blank, .y_step = flag_width};
    apply(&flag->window, t.x, FLAG_INPUTS, HERE, 1, &nothing);
    for (int pixel = 0; pixel < PIXELS; pixel++) {
        if (pixel % IMAGE_SIDE == 0) {
            int16_t *above = s.above;
            s.above = s.here;
            s.here = above;
            if (links) memset(s.here, 0, links); /* pixels where the network does not run pass on nothing */
        }
        int num_asked = 0, num_images = 0;
        for (int i = 0; i < n; i++) {
            s.flagged[i] = 0;
            if (active[i] && !live(canvas_at(&s, i, pixel))) asked[num_asked++] = i;
        }
        for (int at = 0; at < num_asked; at += CHUNK) {
            int m = num_asked - at < CHUNK ? num_asked - at : CHUNK;
            uint32_t zero[CHUNK];
            flag_frequencies(flag, pixel, &s, asked + at, m, blank, &t, zero);
            for (int i = 0; i < m; i++)
                s.flagged[asked[at + i]] = (uint8_t)code_flag(coder, pixel, asked[at + i], zero[i]);
        }
        for (int i = 0, next = 0; i < n; i++) { /* `asked` is in rising order */
            int was_asked = next < num_asked && asked[next] == i;
            next += was_asked;
            if (active[i] && (!was_asked || s.flagged[i])) images[num_images++] = i;
        }
        for (int at = 0; at < num_images; at += CHUNK) {
            int m = num_images - at < CHUNK ? num_images - at : CHUNK;
            value_logits(value, pixel, &s, images + at, m, &t);
            for (int i = 0; i < m; i++) {
                uint32_t freq[VALUES];
                softmax(value->exp, t.wide + i * VALUES, freq);
                int found = code_value(coder, pixel, images[at + i], freq);
                if (found) draw(model, &s, pixel, images[at + i], found);
            }
        }
    }
    for (int i = 0; pixels && i < n; i++)
        for (int pixel = 0; pixel < PIXELS; pixel++) *pixels++ = (uint8_t)*canvas_at(&s, i, pixel);
    free(arena.memory);
    return 0;
}

/* pixels uint8 (n, PIXELS), palette int32 (n)
 * -> codes uint32 (lanes, PIXELS, 2, group), costs int64 (n); the caller sets both to 0. */
int KERNEL(encode_pixels)(const PixelModel *model, int n, int group, const uint8_t *pixels, const uint8_t *active,
                          const int32_t *palette, const int32_t *cost, uint32_t *codes, int64_t *costs) {
    Coder coder = {.group = group, .pixels = pixels, .codes = codes, .costs = costs, .cost = cost};
    return run(model, &coder, n, active, palette, NULL);
}

/* lanes: one per group, in: after the head of its message; out: after its last symbol
 * -> pixels uint8 (n, PIXELS). */
int KERNEL(decode_pixels)(const PixelModel *model, int n, int group, const uint8_t *active, const int32_t *palette,
                          const uint8_t *bytes, Lane *lanes, uint8_t *pixels) {
    Coder coder = {.group = group, .lanes = lanes, .bytes = bytes};
    int result = run(model, &coder, n, active, palette, pixels);
    for (int lane = 0; lane * group < n; lane++) refilled(lanes + lane, bytes);
    return result;
}
