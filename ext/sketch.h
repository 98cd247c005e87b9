/* Upper bounds of inner products from 8-bit codes, eight items at a time.

   A block holds eight items. Its codes are groups of four coordinates: 32 bytes a group, four for each item. A code
   is a coordinate divided by the block's scale, rounded, plus 128; a query's coordinates are codes from -63 to 63, so
   that two products fit in 16 bits. */

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define SKETCH_AVX2 1
#endif

typedef struct {
    const uint8_t *codes;
    const float *scales, *norms, *errors, *biases; /* of blocks; biases of items, or NULL */
    ptrdiff_t groups;
    const int8_t *query; /* 4 a group */
    int32_t offset;      /* 128 times the sum of the query's codes */
    float step;          /* the query's scale */
    float per_norm, per_error;
} Sketch;

static ptrdiff_t sketch_reach_plain(const Sketch *s, ptrdiff_t at, ptrdiff_t end, float threshold, uint32_t *lanes)
{
    for (; at < end; at++) {
        const uint8_t *codes = s->codes + at * s->groups * 32;
        int32_t sums[8] = {0};
        for (ptrdiff_t group = 0; group < s->groups; group++)
            for (int item = 0; item < 8; item++)
                for (int place = 0; place < 4; place++)
                    sums[item] += codes[group * 32 + item * 4 + place] * s->query[group * 4 + place];
        float scale = s->step * s->scales[at];
        float rest = s->per_norm * s->norms[at] + s->per_error * s->errors[at];
        uint32_t found = 0;
        for (int item = 0; item < 8; item++) {
            float bound = scale * (float) (sums[item] - s->offset) + rest;
            if (s->biases) bound += s->biases[at * 8 + item];
            found |= (uint32_t) (bound >= threshold) << item;
        }
        if (found) {
            *lanes = found;
            return at;
        }
    }
    return end;
}

#ifdef SKETCH_AVX2
__attribute__((target("avx2")))
static ptrdiff_t sketch_reach_avx2(const Sketch *s, ptrdiff_t at, ptrdiff_t end, float threshold, uint32_t *lanes)
{
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi32(s->offset);
    const __m256 limit = _mm256_set1_ps(threshold);
    const int32_t *query = (const int32_t *) s->query;
    for (; at < end; at++) {
        const uint8_t *codes = s->codes + at * s->groups * 32;
        __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
        ptrdiff_t group = 0;
        for (; group + 2 <= s->groups; group += 2) {
            __m256i one = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *) (codes + group * 32)),
                                               _mm256_set1_epi32(query[group]));
            __m256i two = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *) (codes + group * 32 + 32)),
                                               _mm256_set1_epi32(query[group + 1]));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(one, ones));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(two, ones));
        }
        if (group < s->groups) {
            __m256i one = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *) (codes + group * 32)),
                                               _mm256_set1_epi32(query[group]));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(one, ones));
        }
        __m256 sums = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_add_epi32(even, odd), offset));
        float rest = s->per_norm * s->norms[at] + s->per_error * s->errors[at];
        __m256 bounds = _mm256_add_ps(_mm256_mul_ps(sums, _mm256_set1_ps(s->step * s->scales[at])),
                                      _mm256_set1_ps(rest));
        if (s->biases) bounds = _mm256_add_ps(bounds, _mm256_loadu_ps(s->biases + at * 8));
        int found = _mm256_movemask_ps(_mm256_cmp_ps(bounds, limit, _CMP_GE_OQ));
        if (found) {
            *lanes = (uint32_t) found;
            return at;
        }
    }
    return end;
}
#endif

typedef ptrdiff_t (*sketch_reach)(const Sketch *, ptrdiff_t, ptrdiff_t, float, uint32_t *);

/* The first block from `at` on with an item whose bound reaches the threshold, and which of its eight; else `end`. */
static sketch_reach sketch_best(void)
{
#ifdef SKETCH_AVX2
    if (__builtin_cpu_supports("avx2")) return sketch_reach_avx2;
#endif
    return sketch_reach_plain;
}
