/* What quantizing spends its time in, in plain C without a header of Python's; quantize/kernels.py loads and describes it.

   Weights lie in rows, and a row in blocks of block_size weights, a multiple of LANES, that share a scale. Loops run over
   LANES numbers that do not depend on each other, so that every compiler turns them into vector instructions. No two
   numbers are added in an order that depends on the processor, and a * b + c is rounded twice (-ffp-contract=off), so that
   the same weights give the same bytes everywhere. */

#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* One copy of a function for each generation of x86; the dynamic linker takes the best. Other processors have one. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#endif
#ifndef FOR_EACH_PROCESSOR
#define FOR_EACH_PROCESSOR
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define LANES 16

static const float SMALLEST_NORMAL = 1.17549435e-38f;

/* The nearest integer, of two the even one, for |x| < 2^22: float32 has no digits left for more. */
INLINE float nearest(float x) {
    const float digits = 12582912.0f; /* 1.5 * 2^23 */
    return (x + digits) - digits;
}

INLINE float clipped(float x, float lowest, float highest) {
    x = x > lowest ? x : lowest;
    return x < highest ? x : highest;
}

/* The nearest bfloat16, or 0 where its inverse would be infinite. */
INLINE float as_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return (x < 0 ? -x : x) < SMALLEST_NORMAL ? 0 : x;
}

/* The weight of largest magnitude, of two the negative one. */
INLINE float extreme_of(const float *weights, int64_t block_size) {
    float high[LANES], low[LANES];
    for (int lane = 0; lane < LANES; lane++) high[lane] = low[lane] = weights[lane];
    for (int64_t i = LANES; i < block_size; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const float weight = weights[i + lane];
            high[lane] = weight > high[lane] ? weight : high[lane];
            low[lane] = weight < low[lane] ? weight : low[lane];
        }
    for (int lane = 1; lane < LANES; lane++) {
        high[0] = high[lane] > high[0] ? high[lane] : high[0];
        low[0] = low[lane] < low[0] ? low[lane] : low[0];
    }
    return high[0] > -low[0] ? high[0] : low[0];
}

INLINE void to_levels(const float *weights, int64_t block_size, float scale, float middle, int8_t *levels) {
    const float inverse = scale == 0 ? 0 : 1 / scale;
    for (int64_t i = 0; i < block_size; i++)
        levels[i] = (int8_t)(int32_t)nearest(clipped(weights[i] * inverse, -middle, middle - 1));
}

/* Blocks by rounding alone: the weight of largest magnitude becomes the lowest level, -middle. */
EXPORT FOR_EACH_PROCESSOR void mimo_round(const float *weights, int64_t blocks, int64_t block_size, int64_t middle,
                                          int8_t *levels, float *scales) {
    for (int64_t block = 0; block < blocks; block++) {
        const float *these = weights + block * block_size;
        scales[block] = as_bfloat16(extreme_of(these, block_size) / -(float)middle);
        to_levels(these, block_size, scales[block], (float)middle, levels + block * block_size);
    }
}

/* Pairs of 4-bit levels in a byte, the first in its low half, with 8 added. */
EXPORT FOR_EACH_PROCESSOR void mimo_pack_pairs(const int8_t *levels, int64_t count, uint8_t *out) {
    for (int64_t i = 0; i < count / 2; i++)
        out[i] = (uint8_t)((levels[2 * i] + 8) | (levels[2 * i + 1] + 8) << 4);
}
