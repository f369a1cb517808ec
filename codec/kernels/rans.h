/* rANS: the twin of codec/rans.py, lane by lane.  FORMAT.md 5.
 *
 * - Symbols go in last first: an encoder walks its steps backwards, so that the decoder can walk them forwards.
 * - A message is read by one rule from its first byte on: while the state is below LOWER_BOUND and bytes remain, shift one in.
 */
enum { PRECISION = 16, TOTAL = 1 << PRECISION };
#define LOWER_BOUND (1u << 23)

/* The decoder of one message. bytes[at..end) is what is left of it; the first state is 0. */
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

/* What an encoder is told of a symbol: start and freq in 32 bits. 0 does nothing: start 0, freq TOTAL. */
INLINE uint32_t code(uint32_t start, uint32_t freq) { return start << PRECISION | (freq & (TOTAL - 1)); }

/* codes: lane by lane, in the order of decoding; ends int64 (lanes): where the codes of each lane end; check int32
 * (lanes): its first state, 0..255. bytes: uint8 (2 * all codes + 4 * lanes), since a symbol writes at most two, the
 * last state four. -> the message of each lane, in bytes[begins[lane] .. 2 * ends[lane] + 4 * (lane + 1)). */
int KERNEL(encode)(const uint32_t *codes, int lanes, const int64_t *ends, const int32_t *check, uint8_t *bytes,
                   int64_t *begins) {
    for (int lane = 0; lane < lanes; lane++) {
        int64_t first = lane ? ends[lane - 1] : 0, at = 2 * ends[lane] + 4 * (lane + (int64_t)1);
        uint32_t state = (uint32_t)check[lane];
        for (int64_t i = ends[lane] - 1; i >= first; i--) {
            if (!codes[i]) continue;
            uint32_t start = codes[i] >> PRECISION, freq = codes[i] & (TOTAL - 1);
            while (state >= freq << (31 - PRECISION)) { /* keeps the next state below 2**31 */
                bytes[--at] = (uint8_t)state;
                state >>= 8;
            }
            state = (state / freq << PRECISION) + state % freq + start;
        }
        for (; state; state >>= 8) bytes[--at] = (uint8_t)state; /* without leading zeros */
        begins[lane] = at;
    }
    return 0;
}
