/* Vectors of 32-bit lanes: the only file that knows instruction sets.
 *
 * READ ME FIRST
 * - A lane of a "pair" vector holds two int16 numbers, of channels 2k and 2k + 1. `dot` multiplies both by those of another
 *   vector and adds the two products to a sum. All products here are of this kind: exact as long as sums stay below 2**31 (they
 *   stay below 2**24; codec/model/layers.py verifies this for each model).
 * - Only `requantize` turns integers into floats: float32(sum) is exact, the product rounds once, and the conversion rounds once
 *   more, to even. Nothing may be fused or reordered, so the file is compiled with -ffp-contract=off.
 * - Padding: every row has a multiple of PAD numbers, so that whole vectors can be read and written.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PAD 16
#define INLINE static inline __attribute__((always_inline))
/* In front of a loop with few turns: unroll it, so that arrays indexed by its variable are registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* LANES: numbers in a vector. TILE_ROWS x TILE_VECTORS: sums held in registers at once. */

#if defined(__AVX512BW__)
#include <immintrin.h>
enum { LANES = 16, TILE_ROWS = 7, TILE_VECTORS = 3 };
typedef __m512i vint;
typedef __m512 vfloat;
INLINE vint splat(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vint load(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE void store(int32_t *p, vint x) { _mm512_storeu_si512(p, x); }
INLINE vint load16(const int16_t *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const void *)p)); }
INLINE void store16(int16_t *p, vint x) { _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(x)); }
INLINE vint add(vint x, vint y) { return _mm512_add_epi32(x, y); }
#if defined(__AVX512VNNI__) /* both products and both sums in one instruction */
INLINE vint dot(vint sum, vint x, vint w) { return _mm512_dpwssd_epi32(sum, x, w); }
#else
INLINE vint dot(vint sum, vint x, vint w) { return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)); }
#endif
INLINE vint clip(vint x, vint low, vint high) { return _mm512_min_epi32(_mm512_max_epi32(x, low), high); }
INLINE vfloat splatf(float x) { return _mm512_set1_ps(x); }
INLINE vfloat loadf(const float *p) { return _mm512_loadu_ps(p); }
INLINE void storef(float *p, vfloat x) { _mm512_storeu_ps(p, x); }
INLINE vfloat addf(vfloat x, vfloat y) { return _mm512_add_ps(x, y); }
INLINE vfloat mulf(vfloat x, vfloat y) { return _mm512_mul_ps(x, y); }
INLINE vfloat maxf(vfloat x, vfloat y) { return _mm512_max_ps(x, y); }
INLINE vfloat absf(vfloat x) { return _mm512_abs_ps(x); }
INLINE vfloat to_float(vint x) { return _mm512_cvtepi32_ps(x); }
INLINE vint to_int(vfloat x) { return _mm512_cvtps_epi32(x); }
INLINE unsigned inside(vint x, vint low, vint high) {
    return _mm512_cmpgt_epi32_mask(x, low) & _mm512_cmplt_epi32_mask(x, high);
}
INLINE vfloat keep(vfloat x, unsigned mask) { return _mm512_maskz_mov_ps((__mmask16)mask, x); }

#elif defined(__AVX2__)
#include <immintrin.h>
enum { LANES = 8, TILE_ROWS = 4, TILE_VECTORS = 2 };
typedef __m256i vint;
typedef __m256 vfloat;
INLINE vint splat(int32_t x) { return _mm256_set1_epi32(x); }
INLINE vint load(const int32_t *p) { return _mm256_loadu_si256((const void *)p); }
INLINE void store(int32_t *p, vint x) { _mm256_storeu_si256((void *)p, x); }
INLINE vint load16(const int16_t *p) { return _mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)p)); }
INLINE void store16(int16_t *p, vint x) {
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packs_epi32(x, x), 8)));
}
INLINE vint add(vint x, vint y) { return _mm256_add_epi32(x, y); }
INLINE vint dot(vint sum, vint x, vint w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }
INLINE vint clip(vint x, vint low, vint high) { return _mm256_min_epi32(_mm256_max_epi32(x, low), high); }
INLINE vfloat splatf(float x) { return _mm256_set1_ps(x); }
INLINE vfloat loadf(const float *p) { return _mm256_loadu_ps(p); }
INLINE void storef(float *p, vfloat x) { _mm256_storeu_ps(p, x); }
INLINE vfloat addf(vfloat x, vfloat y) { return _mm256_add_ps(x, y); }
INLINE vfloat mulf(vfloat x, vfloat y) { return _mm256_mul_ps(x, y); }
INLINE vfloat maxf(vfloat x, vfloat y) { return _mm256_max_ps(x, y); }
INLINE vfloat absf(vfloat x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE vfloat to_float(vint x) { return _mm256_cvtepi32_ps(x); }
INLINE vint to_int(vfloat x) { return _mm256_cvtps_epi32(x); }
INLINE unsigned inside(vint x, vint low, vint high) {
    vint both = _mm256_and_si256(_mm256_cmpgt_epi32(x, low), _mm256_cmpgt_epi32(high, x));
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(both));
}
INLINE vfloat keep(vfloat x, unsigned mask) {
    const vint bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    vint kept = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)mask), bits), bits);
    return _mm256_and_ps(x, _mm256_castsi256_ps(kept));
}

#elif defined(__SSE2__)
#include <emmintrin.h>
enum { LANES = 4, TILE_ROWS = 4, TILE_VECTORS = 2 };
typedef __m128i vint;
typedef __m128 vfloat;
INLINE vint splat(int32_t x) { return _mm_set1_epi32(x); }
INLINE vint load(const int32_t *p) { return _mm_loadu_si128((const void *)p); }
INLINE void store(int32_t *p, vint x) { _mm_storeu_si128((void *)p, x); }
INLINE vint load16(const int16_t *p) {
    vint x = _mm_loadl_epi64((const void *)p);
    return _mm_srai_epi32(_mm_unpacklo_epi16(x, x), 16);
}
INLINE void store16(int16_t *p, vint x) { _mm_storel_epi64((void *)p, _mm_packs_epi32(x, x)); }
INLINE vint add(vint x, vint y) { return _mm_add_epi32(x, y); }
INLINE vint dot(vint sum, vint x, vint w) { return _mm_add_epi32(sum, _mm_madd_epi16(x, w)); }
INLINE vint choose(vint when, vint x, vint y) { return _mm_or_si128(_mm_and_si128(when, x), _mm_andnot_si128(when, y)); }
INLINE vint clip(vint x, vint low, vint high) {
    x = choose(_mm_cmpgt_epi32(low, x), low, x);
    return choose(_mm_cmpgt_epi32(x, high), high, x);
}
INLINE vfloat splatf(float x) { return _mm_set1_ps(x); }
INLINE vfloat loadf(const float *p) { return _mm_loadu_ps(p); }
INLINE void storef(float *p, vfloat x) { _mm_storeu_ps(p, x); }
INLINE vfloat addf(vfloat x, vfloat y) { return _mm_add_ps(x, y); }
INLINE vfloat mulf(vfloat x, vfloat y) { return _mm_mul_ps(x, y); }
INLINE vfloat maxf(vfloat x, vfloat y) { return _mm_max_ps(x, y); }
INLINE vfloat absf(vfloat x) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), x); }
INLINE vfloat to_float(vint x) { return _mm_cvtepi32_ps(x); }
INLINE vint to_int(vfloat x) { return _mm_cvtps_epi32(x); }
INLINE unsigned inside(vint x, vint low, vint high) {
    vint both = _mm_and_si128(_mm_cmpgt_epi32(x, low), _mm_cmpgt_epi32(high, x));
    return (unsigned)_mm_movemask_ps(_mm_castsi128_ps(both));
}
INLINE vfloat keep(vfloat x, unsigned mask) {
    const vint bits = _mm_setr_epi32(1, 2, 4, 8);
    vint kept = _mm_cmpeq_epi32(_mm_and_si128(_mm_set1_epi32((int)mask), bits), bits);
    return _mm_and_ps(x, _mm_castsi128_ps(kept));
}

#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
enum { LANES = 4, TILE_ROWS = 7, TILE_VECTORS = 2 };
typedef int32x4_t vint;
typedef float32x4_t vfloat;
INLINE vint splat(int32_t x) { return vdupq_n_s32(x); }
INLINE vint load(const int32_t *p) { return vld1q_s32(p); }
INLINE void store(int32_t *p, vint x) { vst1q_s32(p, x); }
INLINE vint load16(const int16_t *p) { return vmovl_s16(vld1_s16(p)); }
INLINE void store16(int16_t *p, vint x) { vst1_s16(p, vqmovn_s32(x)); }
INLINE vint add(vint x, vint y) { return vaddq_s32(x, y); }
INLINE vint dot(vint sum, vint x, vint w) {
    int16x8_t a = vreinterpretq_s16_s32(x), b = vreinterpretq_s16_s32(w);
    return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
}
INLINE vint clip(vint x, vint low, vint high) { return vminq_s32(vmaxq_s32(x, low), high); }
INLINE vfloat splatf(float x) { return vdupq_n_f32(x); }
INLINE vfloat loadf(const float *p) { return vld1q_f32(p); }
INLINE void storef(float *p, vfloat x) { vst1q_f32(p, x); }
INLINE vfloat addf(vfloat x, vfloat y) { return vaddq_f32(x, y); }
INLINE vfloat mulf(vfloat x, vfloat y) { return vmulq_f32(x, y); }
INLINE vfloat maxf(vfloat x, vfloat y) { return vmaxq_f32(x, y); }
INLINE vfloat absf(vfloat x) { return vabsq_f32(x); }
INLINE vfloat to_float(vint x) { return vcvtq_f32_s32(x); }
INLINE vint to_int(vfloat x) { return vcvtnq_s32_f32(x); }
INLINE unsigned inside(vint x, vint low, vint high) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vandq_u32(vcgtq_s32(x, low), vcltq_s32(x, high)), bits));
}
INLINE vfloat keep(vfloat x, unsigned mask) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vtstq_u32(vdupq_n_u32(mask), bits)));
}

#elif defined(__wasm_simd128__) /* plain SIMD, not the relaxed one: its results are the same in every browser */
#include <wasm_simd128.h>
enum { LANES = 4, TILE_ROWS = 4, TILE_VECTORS = 2 };
typedef v128_t vint;
typedef v128_t vfloat;
INLINE vint splat(int32_t x) { return wasm_i32x4_splat(x); }
INLINE vint load(const int32_t *p) { return wasm_v128_load(p); }
INLINE void store(int32_t *p, vint x) { wasm_v128_store(p, x); }
INLINE vint load16(const int16_t *p) { return wasm_i32x4_load16x4(p); }
INLINE void store16(int16_t *p, vint x) { wasm_v128_store64_lane(p, wasm_i16x8_narrow_i32x4(x, x), 0); }
INLINE vint add(vint x, vint y) { return wasm_i32x4_add(x, y); }
INLINE vint dot(vint sum, vint x, vint w) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(x, w)); }
INLINE vint clip(vint x, vint low, vint high) { return wasm_i32x4_min(wasm_i32x4_max(x, low), high); }
INLINE vfloat splatf(float x) { return wasm_f32x4_splat(x); }
INLINE vfloat loadf(const float *p) { return wasm_v128_load(p); }
INLINE void storef(float *p, vfloat x) { wasm_v128_store(p, x); }
INLINE vfloat addf(vfloat x, vfloat y) { return wasm_f32x4_add(x, y); }
INLINE vfloat mulf(vfloat x, vfloat y) { return wasm_f32x4_mul(x, y); }
INLINE vfloat maxf(vfloat x, vfloat y) { return wasm_f32x4_max(x, y); }
INLINE vfloat absf(vfloat x) { return wasm_f32x4_abs(x); }
INLINE vfloat to_float(vint x) { return wasm_f32x4_convert_i32x4(x); }
INLINE vint to_int(vfloat x) { return wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(x)); } /* nearest: ties to even */
INLINE unsigned inside(vint x, vint low, vint high) {
    return wasm_i32x4_bitmask(wasm_v128_and(wasm_i32x4_gt(x, low), wasm_i32x4_lt(x, high)));
}
INLINE vfloat keep(vfloat x, unsigned mask) {
    const vint bits = wasm_i32x4_const(1, 2, 4, 8);
    return wasm_v128_and(x, wasm_i32x4_eq(wasm_v128_and(splat((int32_t)mask), bits), bits));
}

#else /* any other machine: plain C, which the compiler may turn into vectors */
enum { LANES = 4, TILE_ROWS = 4, TILE_VECTORS = 2 };
typedef struct { int32_t at[LANES]; } vint;
typedef struct { float at[LANES]; } vfloat;
#define EACH(type, value) type y; for (int i = 0; i < LANES; i++) y.at[i] = (value); return y
INLINE vint splat(int32_t x) { EACH(vint, x); }
INLINE vint load(const int32_t *p) { EACH(vint, p[i]); }
INLINE void store(int32_t *p, vint x) { memcpy(p, x.at, sizeof x.at); }
INLINE vint load16(const int16_t *p) { EACH(vint, p[i]); }
INLINE void store16(int16_t *p, vint x) { for (int i = 0; i < LANES; i++) p[i] = (int16_t)x.at[i]; }
INLINE vint add(vint x, vint z) { EACH(vint, x.at[i] + z.at[i]); }
INLINE vint dot(vint sum, vint x, vint w) {
    int16_t a[2 * LANES], b[2 * LANES];
    memcpy(a, x.at, sizeof a);
    memcpy(b, w.at, sizeof b);
    EACH(vint, sum.at[i] + a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]);
}
INLINE vint clip(vint x, vint low, vint high) {
    EACH(vint, x.at[i] < low.at[i] ? low.at[i] : x.at[i] > high.at[i] ? high.at[i] : x.at[i]);
}
INLINE vfloat splatf(float x) { EACH(vfloat, x); }
INLINE vfloat loadf(const float *p) { EACH(vfloat, p[i]); }
INLINE void storef(float *p, vfloat x) { memcpy(p, x.at, sizeof x.at); }
INLINE vfloat addf(vfloat x, vfloat z) { EACH(vfloat, x.at[i] + z.at[i]); }
INLINE vfloat mulf(vfloat x, vfloat z) { EACH(vfloat, x.at[i] * z.at[i]); }
INLINE vfloat maxf(vfloat x, vfloat z) { EACH(vfloat, x.at[i] > z.at[i] ? x.at[i] : z.at[i]); }
INLINE vfloat absf(vfloat x) { EACH(vfloat, fabsf(x.at[i])); }
INLINE vfloat to_float(vint x) { EACH(vfloat, (float)x.at[i]); }
INLINE vint to_int(vfloat x) { EACH(vint, (int32_t)rintf(x.at[i])); }
INLINE unsigned inside(vint x, vint low, vint high) {
    unsigned mask = 0;
    for (int i = 0; i < LANES; i++) mask |= (unsigned)(x.at[i] > low.at[i] && x.at[i] < high.at[i]) << i;
    return mask;
}
INLINE vfloat keep(vfloat x, unsigned mask) { EACH(vfloat, mask >> i & 1 ? x.at[i] : 0.0f); }
#endif

/* sum (in units of 1 / multiplier) -> the nearest whole number, ties to even. */
INLINE vint requantize(vint sum, vfloat multiplier) { return to_int(mulf(to_float(sum), multiplier)); }
