/* rANS: the twin of codec/coding/rans.py, lane by lane.  FORMAT.md 5.
 *
 * - Symbols go in last first: an encoder walks its steps backwards, so that the decoder can walk them forwards.
 * - One rule reads a message from its first byte: while the state is below LOWER_BOUND and bytes remain, shift one in.
 */
enum { PRECISION = 16, TOTAL = 1 << PRECISION };
#define LOWER_BOUND (1u << 23)

/* The decoder of one message. bytes[at..end) is what remains of it; the first state is 0. */
typedef struct {
    uint32_t state;
    int32_t at, end;
} Lane;

INLINE uint32_t refilled(Lane *lane, const uint8_t *bytes) {
    while (lane->state < LOWER_BOUND && lane->at < lane->end) lane->state = lane->state << 8 | bytes[lane->at++];
    return lane->state;
}

/* Take the symbol whose interval start..start + freq holds the lowest bits of the state. Any state and any interval with
 * freq <= TOTAL give a state below 2**32. */
INLINE void advance(Lane *lane, uint32_t start, uint32_t freq) {
    lane->state = freq * (lane->state >> PRECISION) + (lane->state & (TOTAL - 1)) - start;
}

/* Symbols of one level: rows of the CDF table int32 (steps, n) -> codes uint8 (steps, n). `group` neighbouring images share a
 * lane and take turns; row 0 is certain, so its code is 0 and takes no bits. cdf: uint32 (rows, width), each row from 0 to
 * TOTAL, so the search below ends within its row whatever the bytes are. */
int KERNEL(decode_symbols)(const uint32_t *cdf, int width, int steps, int n, int group, const int32_t *rows, Lane *lanes,
                           const uint8_t *bytes, uint8_t *codes) {
    for (int first = 0; first < n; first += group) {
        Lane lane = lanes[first / group];
        int end = first + group < n ? first + group : n;
        for (int step = 0; step < steps; step++)
            for (int i = first; i < end; i++) {
                int32_t row = rows[(ptrdiff_t)step * n + i];
                uint32_t symbol = 0;
                if (row) {
                    const uint32_t *of_row = cdf + (ptrdiff_t)row * width;
                    uint32_t slot = refilled(&lane, bytes) & (TOTAL - 1);
                    while (of_row[symbol + 1] <= slot) symbol++; /* the most probable come first */
                    advance(&lane, of_row[symbol], of_row[symbol + 1] - of_row[symbol]);
                }
                codes[(ptrdiff_t)step * n + i] = (uint8_t)symbol;
            }
        lanes[first / group] = lane;
    }
    return 0;
}

/* Shift in bytes as far as the rule allows. If all is well, each state is then the one with which its message began. */
int KERNEL(refill)(Lane *lanes, int count, const uint8_t *bytes) {
    for (int i = 0; i < count; i++) refilled(lanes + i, bytes);
    return 0;
}

/* Put a symbol with the interval start..start + freq, freq > 0, into a state; bytes that overflow go in front of *to. */
INLINE void put(uint32_t *state, uint8_t **to, uint32_t start, uint32_t freq) {
    while (*state >= freq << (31 - PRECISION)) { /* keeps the next state below 2**31 */
        *--*to = (uint8_t)*state;
        *state >>= 8;
    }
    *state = (*state / freq << PRECISION) + *state % freq + start;
}

/* Write the state in front of its bytes, without leading zeros: exactly what the decoder's rule reads back. */
INLINE void put_state(uint32_t state, uint8_t **to) {
    for (; state; state >>= 8) *--*to = (uint8_t)state;
}

/* codes uint8, rows int16 (steps, n), row 0 certain -> one message per lane, one after the other in `messages`, with their ends
 * in `ends`; cells: start and freq of each symbol of each row, uint32 (rows, width, 2). checks: the first states. capacity:
 * bytes of `messages`, with room for 2 bytes per symbol and 4 per lane. Returns -2 if a symbol has no frequency. */
int KERNEL(encode_symbols)(const uint32_t *cells, int width, int steps, int n, int group, const int16_t *rows,
                           const uint8_t *codes, const uint8_t *checks, uint8_t *messages, int64_t capacity, int64_t *ends) {
    int64_t used = 0;
    for (int first = 0, lane = 0; first < n; first += group, lane++) {
        int end = first + group < n ? first + group : n;
        uint8_t *last = messages + capacity, *to = last;
        uint32_t state = checks[lane];
        for (int step = steps - 1; step >= 0; step--)
            for (int i = end - 1; i >= first; i--) {
                ptrdiff_t at = (ptrdiff_t)step * n + i;
                if (!rows[at]) continue;
                const uint32_t *cell = cells + ((ptrdiff_t)rows[at] * width + codes[at]) * 2;
                if (!cell[1]) return -2;
                put(&state, &to, cell[0], cell[1]);
            }
        put_state(state, &to);
        memmove(messages + used, to, (size_t)(last - to));
        ends[lane] = used += last - to;
    }
    return 0;
}

/* A symbol for the encoder: start and freq in 32 bits. 0 is the symbol that changes nothing, start 0 and freq TOTAL. */
INLINE uint32_t code(uint32_t start, uint32_t freq) { return start << PRECISION | (freq & (TOTAL - 1)); }

/* codes: lane by lane, in decoding order; ends int64 (lanes): where the codes of each lane end; check int32 (lanes): its first
 * state. -> the message of each lane, in bytes[begins[lane] .. ends'), where ends' = 2 * ends[lane] + 4 * (lane + 1): a symbol
 * writes at most two bytes, the last state four. bytes: uint8 (2 * all codes + 4 * lanes). */
int KERNEL(encode)(const uint32_t *codes, int lanes, const int64_t *ends, const int32_t *check, uint8_t *bytes, int64_t *begins) {
    for (int lane = 0; lane < lanes; lane++) {
        int64_t first = lane ? ends[lane - 1] : 0;
        uint8_t *to = bytes + 2 * ends[lane] + 4 * (lane + (int64_t)1);
        uint32_t state = (uint32_t)check[lane];
        for (int64_t i = ends[lane] - 1; i >= first; i--) {
            if (!codes[i]) continue;
            uint32_t start = codes[i] >> PRECISION, freq = codes[i] & (TOTAL - 1);
            put(&state, &to, start, freq);
        }
        put_state(state, &to);
        begins[lane] = to - bytes;
    }
    return 0;
}
