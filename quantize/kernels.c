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
#define CANDIDATES 32
#define NEIGHBOURS 16
#define CHUNK 128
#define TOKENS 32
#define PART 256
#define THREE 3
#define SIX 6

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

/* The nearest float16 for |x| <= 65504. */
INLINE float as_float16(float x) {
    const float smallest_normal = 6.103515625e-05f, magnitude = x < 0 ? -x : x;
    /* Subnormal float16 have the step 2^-24, which is that of float32 between 0.5 and 1. */
    const float subnormal = (magnitude + 0.5f) - 0.5f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000;
    float normal;
    memcpy(&normal, &bits, sizeof normal);
    return magnitude >= smallest_normal ? normal : x < 0 ? -subnormal : subnormal;
}

INLINE float as_stored(float scale, int64_t float16) { return float16 ? as_float16(scale) : as_bfloat16(scale); }

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

/* For each inverse of a scale what the best error with its levels depends on: the sums of importance * weight * level
   and of importance * level * level. Candidates lie side by side, and weights are added one after the other. */
INLINE void sums_of(const float *weights, const float *importance, int64_t block_size, float middle,
                    const float *inverses, float *products, float *squares) {
    for (int c = 0; c < CANDIDATES; c++) products[c] = squares[c] = 0;
    for (int64_t i = 0; i < block_size; i++) {
        const float weight = weights[i], part = importance[i], product = part * weight;
        for (int c = 0; c < CANDIDATES; c++) {
            const float level = nearest(clipped(weight * inverses[c], -middle, middle - 1));
            products[c] += product * level;
            squares[c] += (part * level) * level;
        }
    }
}

/* For each scale the sum of importance * (weight - scale * level)^2. */
INLINE void errors_of(const float *weights, const float *importance, int64_t block_size, float middle,
                      const float *scales, float *errors) {
    float inverses[NEIGHBOURS];
    for (int c = 0; c < NEIGHBOURS; c++) {
        inverses[c] = scales[c] == 0 ? 0 : 1 / scales[c];
        errors[c] = 0;
    }
    for (int64_t i = 0; i < block_size; i++) {
        const float weight = weights[i], part = importance[i];
        for (int c = 0; c < NEIGHBOURS; c++) {
            const float lost = weight - scales[c] * nearest(clipped(weight * inverses[c], -middle, middle - 1));
            errors[c] += (part * lost) * lost;
        }
    }
}

/* The scale, as it is stored, for which the sum of importance * (weight - scale * level)^2 is small.

   First the extreme is put at 2 * CANDIDATES places, with both signs, and the sums say which levels some scale fits
   best. Around that scale NEIGHBOURS - 1 ones are then tried as they are stored, and the one of rounding alone, which
   remains when none is better, or when the importance is zero or NaN. */
INLINE float searched_scale(const float *weights, const float *importance, int64_t block_size, float middle,
                            const float *places, int64_t float16) {
    float inverses[CANDIDATES], products[CANDIDATES], squares[CANDIDATES], scales[NEIGHBOURS], errors[NEIGHBOURS];
    const float extreme = extreme_of(weights, block_size), plain = as_stored(extreme / -middle, float16);
    if (plain == 0) return 0;
    float center = plain, most = 0;
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int c = 0; c < CANDIDATES; c++) inverses[c] = (float)sign * places[c] / extreme;
        sums_of(weights, importance, block_size, middle, inverses, products, squares);
        for (int c = 0; c < CANDIDATES; c++) {
            const float fitting = squares[c] > 0 ? products[c] / squares[c] : 0;
            if (products[c] * fitting > most) {
                most = products[c] * fitting;
                center = fitting;
            }
        }
    }
    for (int c = 1; c < NEIGHBOURS; c++)
        scales[c] = as_stored(center * (1 + (float)(c - NEIGHBOURS / 2) / 256), float16);
    scales[0] = plain;
    errors_of(weights, importance, block_size, middle, scales, errors);
    int best = 0;
    for (int c = 1; c < NEIGHBOURS; c++)
        if (errors[c] < errors[best]) best = c;
    return scales[best];
}

/* The scale for which the same sum is small among 1 to 15 times a unit, which is what NPUs have for the blocks of a row.
   The error is that sum. The smallest scale that clips nothing remains when none is better. */
INLINE float scale_of_units(const float *weights, const float *importance, int64_t block_size, float middle,
                            float unit, float *error) {
    float scales[NEIGHBOURS], errors[NEIGHBOURS], wanted = 0;
    for (int64_t i = 0; i < block_size; i++) {
        const float needed = weights[i] / (weights[i] < 0 ? -middle : middle - 1);
        wanted = needed > wanted ? needed : wanted;
    }
    int best = NEIGHBOURS - 1;
    for (int c = NEIGHBOURS - 1; c > 0; c--) {
        scales[c] = unit * (float)c;
        if (scales[c] >= wanted) best = c;
    }
    scales[0] = scales[best];
    errors_of(weights, importance, block_size, middle, scales, errors);
    for (int c = 1; c < NEIGHBOURS; c++)
        if (errors[c] < errors[best]) best = c;
    *error = errors[best];
    return scales[best];
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

/* Blocks of rows by searched scales; importance has one number for each column, units one for each row, or none is. */
EXPORT FOR_EACH_PROCESSOR void mimo_search(const float *weights, const float *importance, int64_t rows, int64_t columns,
                                           int64_t block_size, int64_t middle, int64_t float16, const float *places,
                                           const float *units, int8_t *levels, float *scales) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t start = 0; start < columns; start += block_size) {
            const float *these = weights + row * columns + start;
            float error;
            const float scale =
                units ? scale_of_units(these, importance + start, block_size, (float)middle, units[row], &error)
                      : searched_scale(these, importance + start, block_size, (float)middle, places, float16);
            to_levels(these, block_size, scale, (float)middle, levels + row * columns + start);
            *scales++ = scale;
        }
}

/* For each row and each of some units the sum of importance * (weight - scale * level)^2 with scales of that unit. */
EXPORT FOR_EACH_PROCESSOR void mimo_units(const float *weights, const float *importance, int64_t rows, int64_t columns,
                                          int64_t block_size, int64_t middle, const float *units, int64_t count,
                                          float *errors) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < count; c++) {
            float sum = 0, error;
            for (int64_t start = 0; start < columns; start += block_size) {
                scale_of_units(weights + row * columns + start, importance + start, block_size, (float)middle,
                               units[row * count + c], &error);
                sum += error;
            }
            errors[row * count + c] = sum;
        }
}

/* A chunk of at most CHUNK columns with feedback: what a column loses is made up for by the chunk's later columns.

   weights, errors and levels are parts [rows, chunk] of arrays [rows, columns]. targets [rows, chunk] are the weights
   with the feedback of all columns before the chunk; feedback [chunk, chunk] says how much of the error of a column,
   errors = weights - scale * level, goes to each later one. scales get one number for each row and block. units are as
   for mimo_search.

   LANES rows lie side by side, as each column of a row waits for the one before it. A block's scale is searched for on
   what its columns are expected to become, which is not what the columns before the block ask of each of them alone:
   each will take a part of that and leave less to the later ones. */
EXPORT FOR_EACH_PROCESSOR void mimo_feedback(const float *weights, const float *targets, const float *importance,
                                             const float *feedback, int64_t rows, int64_t chunk, int64_t columns,
                                             int64_t block_size, int64_t middle, int64_t float16, const float *places,
                                             const float *units, int8_t *levels, float *errors, float *scales) {
    float own[CHUNK][LANES], wanted[CHUNK][LANES], rest[CHUNK][LANES], expected[LANES][CHUNK];
    float scale[LANES] = {0}, inverse[LANES] = {0}, level[LANES], lost[LANES];
    memset(own, 0, sizeof own);
    memset(wanted, 0, sizeof wanted);
    for (int64_t first = 0; first < rows; first += LANES) {
        const int64_t count = rows - first < LANES ? rows - first : LANES;
        for (int64_t lane = 0; lane < count; lane++)
            for (int64_t i = 0; i < chunk; i++) {
                own[i][lane] = weights[(first + lane) * columns + i];
                wanted[i][lane] = targets[(first + lane) * chunk + i];
            }
        for (int64_t start = 0; start < chunk; start += block_size) {
            const int64_t end = start + block_size;
            for (int64_t i = start; i < end; i++)
                for (int lane = 0; lane < LANES; lane++) rest[i][lane] = wanted[i][lane] - own[i][lane];
            for (int64_t i = start; i < end; i++) {
                for (int64_t later = i + 1; later < end; later++)
                    for (int lane = 0; lane < LANES; lane++)
                        rest[later][lane] -= rest[i][lane] * feedback[i * chunk + later];
                for (int lane = 0; lane < LANES; lane++) expected[lane][i] = own[i][lane] + rest[i][lane];
            }
            for (int64_t lane = 0; lane < count; lane++) {
                const float *these = expected[lane] + start, *important = importance + start;
                float error;
                scale[lane] =
                    units ? scale_of_units(these, important, block_size, (float)middle, units[first + lane], &error)
                          : searched_scale(these, important, block_size, (float)middle, places, float16);
                inverse[lane] = scale[lane] == 0 ? 0 : 1 / scale[lane];
                scales[(first + lane) * (columns / block_size) + start / block_size] = scale[lane];
            }
            for (int64_t i = start; i < end; i++) {
                for (int lane = 0; lane < LANES; lane++) {
                    level[lane] = nearest(clipped(wanted[i][lane] * inverse[lane], -(float)middle, (float)(middle - 1)));
                    lost[lane] = own[i][lane] - scale[lane] * level[lane];
                }
                for (int64_t later = i + 1; later < chunk; later++)
                    for (int lane = 0; lane < LANES; lane++)
                        wanted[later][lane] += lost[lane] * feedback[i * chunk + later];
                for (int64_t lane = 0; lane < count; lane++) {
                    levels[(first + lane) * columns + i] = (int8_t)(int32_t)level[lane];
                    errors[(first + lane) * columns + i] = lost[lane];
                }
            }
        }
    }
}

/* Pairs of 4-bit levels in a byte, the first in its low half, with 8 added. */
EXPORT FOR_EACH_PROCESSOR void mimo_pack_pairs(const int8_t *levels, int64_t count, uint8_t *out) {
    for (int64_t i = 0; i < count / 2; i++)
        out[i] = (uint8_t)((levels[2 * i] + 8) | (levels[2 * i + 1] + 8) << 4);
}

/* Blocks of ggml's Q4_0: a float16 scale, whose bits are in scales, then 32 levels with 8 added; the first 16 are the low
   halves of the bytes.
   Source: block_q4_0, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/ggml-common.h */
EXPORT FOR_EACH_PROCESSOR void mimo_pack_q4_0(const int8_t *levels, const uint16_t *scales, int64_t blocks,
                                              uint8_t *out) {
    for (int64_t block = 0; block < blocks; block++) {
        const int8_t *these = levels + 32 * block;
        uint8_t *to = out + 18 * block;
        to[0] = (uint8_t)(scales[block] & 255);
        to[1] = (uint8_t)(scales[block] >> 8);
        for (int i = 0; i < 16; i++) to[2 + i] = (uint8_t)((these[i] + 8) | (these[16 + i] + 8) << 4);
    }
}

/* Levels of blocks times their scales. A byte has two levels of 4 bits, the first in its low half, or one of 8; either is
   flipped by some bits, and then has the middle level added. */
EXPORT FOR_EACH_PROCESSOR void mimo_unpack(const uint8_t *packed, const float *scales, int64_t blocks,
                                           int64_t block_size, int64_t bits, int64_t flip, float *out) {
    for (int64_t block = 0; block < blocks; block++, out += block_size) {
        const float scale = scales[block];
        if (bits == 8) {
            for (int64_t i = 0; i < block_size; i++) out[i] = scale * (float)((packed[i] ^ (int32_t)flip) - 128);
            packed += block_size;
            continue;
        }
        for (int64_t i = 0; i < block_size / 2; i++) {
            const int32_t both = packed[i] ^ (int32_t)flip;
            out[2 * i] = scale * (float)((both & 15) - 8);
            out[2 * i + 1] = scale * (float)((both >> 4) - 8);
        }
        packed += block_size / 2;
    }
}

/* The products of THREE rows of weights with count columns of TOKENS tokens, added to sums. The rows have names, and are no
   array, so that compilers keep their sums in registers as far as there are any. */
FOR_EACH_PROCESSOR static void add_three(const float *weights, int64_t columns, const float *inputs, int64_t count,
                                         float *sums, int64_t padded) {
    float a[TOKENS] = {0}, b[TOKENS] = {0}, c[TOKENS] = {0};
    for (int64_t k = 0; k < count; k++) {
        const float *in = inputs + k * TOKENS;
        const float p = weights[k], q = weights[columns + k], r = weights[2 * columns + k];
        for (int token = 0; token < TOKENS; token++) {
            a[token] += p * in[token];
            b[token] += q * in[token];
            c[token] += r * in[token];
        }
    }
    for (int token = 0; token < TOKENS; token++) {
        sums[token] += a[token];
        sums[padded + token] += b[token];
        sums[2 * padded + token] += c[token];
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_AVX512 __builtin_cpu_supports("avx512f")
typedef float Vector __attribute__((vector_size(64), aligned(4)));

/* The same for SIX rows, whose sums all have registers in AVX-512. */
__attribute__((target("avx512f"))) static void add_six(const float *weights, int64_t columns, const float *inputs,
                                                       int64_t count, float *sums, int64_t padded) {
    Vector made[SIX][2] = {0};
    for (int64_t k = 0; k < count; k++) {
        const Vector *in = (const Vector *)(inputs + k * TOKENS);
        for (int row = 0; row < SIX; row++) {
            const float weight = weights[row * columns + k];
            made[row][0] += weight * in[0];
            made[row][1] += weight * in[1];
        }
    }
    for (int row = 0; row < SIX; row++) {
        Vector *to = (Vector *)(sums + row * padded);
        to[0] += made[row][0];
        to[1] += made[row][1];
    }
}
#else
#define HAS_AVX512 0
#define add_six add_three
#endif

FOR_EACH_PROCESSOR static void add_one(const float *weights, const float *inputs, int64_t count, float *sums) {
    float made[TOKENS] = {0};
    for (int64_t k = 0; k < count; k++)
        for (int token = 0; token < TOKENS; token++) made[token] += weights[k] * inputs[k * TOKENS + token];
    for (int token = 0; token < TOKENS; token++) sums[token] += made[token];
}

/* What a matrix [rows, columns] gives for tokens: out [tokens, rows] with stride numbers between tokens. inputs hold TOKENS
   tokens after TOKENS tokens, column by column; sums [rows, padded] is our own, with tokens rounded up to that. Columns are
   added in their order, PART by PART, so that a part of weights and inputs stays in the processor's cache. */
EXPORT void mimo_multiply(const float *weights, int64_t rows, int64_t columns, const float *inputs, int64_t tokens,
                          float *sums, float *out, int64_t stride) {
    const int64_t padded = (tokens + TOKENS - 1) / TOKENS * TOKENS, step = HAS_AVX512 ? SIX : THREE;
    memset(sums, 0, sizeof *sums * (size_t)(rows * padded));
    for (int64_t start = 0; start < columns; start += PART) {
        const int64_t count = columns - start < PART ? columns - start : PART;
        for (int64_t first = 0; first < padded; first += TOKENS) {
            const float *in = inputs + first * columns + start * TOKENS, *from = weights + start;
            float *to = sums + first;
            int64_t row = 0;
            for (; row + step <= rows; row += step, from += step * columns, to += step * padded)
                (step == SIX ? add_six : add_three)(from, columns, in, count, to, padded);
            for (; row < rows; row++, from += columns, to += padded) add_one(from, in, count, to);
        }
    }
    for (int64_t row = 0; row < rows; row += LANES)
        for (int64_t token = 0; token < tokens; token++)
            for (int64_t each = row; each < rows && each < row + LANES; each++)
                out[token * stride + each] = sums[each * padded + token];
}
