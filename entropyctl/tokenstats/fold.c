/* The passes over a tile of logits: forward, backward and the largest. The formulas stand in sums.py; this is their fast form.

   Plain C: the compiler of the machine makes it fit the machine's vector units. Terms of d <= LOWEST count as 0, as there;
   comparisons are written so that a NaN stays one. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LOWEST -43.0f
#define SPAN 256

/* e^d for LOWEST <= d <= 0, within 1 unit in the last place: 2^n by its bits, and e^f for |f| <= ln 2 / 2 by a
   polynomial (the coefficients are those of Cephes). */
static inline float exponential(float d)
{
    float n = rintf(d * 1.44269504088896341f);
    float f = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, d));
    float p = 1.9875691500e-4f;
    p = fmaf(p, f, 1.3981999507e-3f);
    p = fmaf(p, f, 8.3334519073e-3f);
    p = fmaf(p, f, 4.1665795894e-2f);
    p = fmaf(p, f, 1.6666665459e-1f);
    p = fmaf(p, f, 5.0000001201e-1f);
    p = fmaf(p, f * f, f) + 1.0f;
    union { int32_t bits; float value; } power = { .bits = ((int32_t)n + 127) << 23 };
    return p * power.value;
}

static inline int64_t key_of(float x, int64_t column)
{
    union { float value; int32_t bits; } one = { .value = x + 0.0f };
    return (int64_t)(one.bits ^ ((one.bits >> 31) & 0x7fffffff)) * ((int64_t)1 << 32) + (0xffffffff - column);
}

static inline float logit_of(int64_t key)
{
    int32_t bits = (int32_t)(key >> 32);
    union { int32_t bits; float value; } one = { .bits = bits ^ ((bits >> 31) & 0x7fffffff) };
    return one.value;
}

/* Take a tile x[rows, width] into each row's maximum, its sums s0 s1 t0 t1 and its token's logit.
   token[i] is relative to the tile's first column, and anything outside it where the token is in another tile. */
void fold(const float *x, int64_t rows, int64_t width, int64_t stride, const int64_t *token, double beta,
          double *top, double *sums, double *target)
{
    for (int64_t i = 0; i < rows; i++, x += stride, sums += 4) {
        if (token[i] >= 0 && token[i] < width) target[i] = x[token[i]];
        float largest = -INFINITY;
        #pragma omp simd reduction(max : largest)
        for (int64_t j = 0; j < width; j++) largest = x[j] > largest ? x[j] : largest;
        if (largest > top[i]) {
            double d = (top[i] - largest) * beta, r = exp(d);
            d = d > -200.0 ? d : -200.0;
            sums[1] = r * (sums[1] + d * sums[0]);
            sums[0] *= r;
            sums[3] = r * r * (sums[3] + d * sums[2]);
            sums[2] *= r * r;
            top[i] = largest;
        }
        float m = (float)top[i], b = (float)beta, s0 = 0, s1 = 0, t0 = 0, t1 = 0;
        #pragma omp simd reduction(+ : s0, s1, t0, t1)
        for (int64_t j = 0; j < width; j++) {
            float d = (x[j] - m) * b;
            d = d <= LOWEST ? LOWEST : d;
            float e = exponential(d);
            e = d <= LOWEST ? 0.0f : e;
            float de = d * e;
            s0 += e;
            s1 += de;
            t0 += e * e;
            t1 += de * e;
        }
        sums[0] += s0;
        sums[1] += s1;
        sums[2] += t0;
        sums[3] += t1;
    }
}

/* Take a tile, whose first column is left, into each row's k largest keys, descending; what a key is stands in sums.py. */
void rank(const float *x, int64_t rows, int64_t width, int64_t stride, int64_t left, int64_t *keys, int64_t k)
{
    for (int64_t i = 0; i < rows; i++, x += stride, keys += k) {
        for (int64_t from = 0; from < width; from += SPAN) {
            int64_t to = from + SPAN < width ? from + SPAN : width;
            /* Most spans have nothing above the last key: seen without a look at each. */
            float floor = logit_of(keys[k - 1]);
            int any = 0;
            #pragma omp simd reduction(| : any)
            for (int64_t j = from; j < to; j++) any |= !(x[j] < floor);
            for (int64_t j = from; any && j < to; j++) {
                int64_t key = key_of(x[j], left + j), place = k;
                if (key <= keys[k - 1]) continue;
                while (place > 0 && keys[place - 1] < key) place--;
                memmove(keys + place + 1, keys + place, (size_t)(k - 1 - place) * sizeof *keys);
                keys[place] = key;
            }
        }
    }
}

/* Turn a tile of logits into the gradient at them, of sum_i (by_logprob[i] log p_i + by_entropy[i] H_i):
   beta (by_logprob (1[token] - p) - by_entropy p (log p + H)). log_z is that of the logits less top, divided by T. */
void pull(float *x, int64_t rows, int64_t width, int64_t stride, const int64_t *token, double beta,
          const double *top, const float *log_z, const float *entropy, const float *by_logprob, const float *by_entropy)
{
    for (int64_t i = 0; i < rows; i++, x += stride) {
        float m = (float)top[i], b = (float)beta, z = log_z[i];
        float constant = -b * (by_logprob[i] + by_entropy[i] * entropy[i]), slope = -b * by_entropy[i];
        #pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            float log_p = (x[j] - m) * b - z;
            log_p = log_p <= LOWEST ? LOWEST : log_p;
            float p = exponential(log_p);
            p = log_p <= LOWEST ? 0.0f : p;
            x[j] = p * (constant + slope * log_p);
        }
        if (token[i] >= 0 && token[i] < width) x[token[i]] += b * by_logprob[i];
    }
}
