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
