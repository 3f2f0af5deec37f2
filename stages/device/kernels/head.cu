// From logits to what a model says of the tokens that follow.

#include "okapi.cuh"

// What is kept of a row of logits.
struct Score {
    double log_probability, entropy;
    // 1 if no logit is larger than that of the token that follows, otherwise 0.
    double is_top;
    // The largest logit. The probability of a token is the exponential of its logit less this one, times the
    // share.
    double most, share;
};

// A block does a row; sums are taken in double precision, for there may be very many tokens. A token that there
// is not gets no numbers.
KERNEL token_scores(Score *scores, const float *logits, const u32 *next, u32 vocabulary) {
    logits += static_cast<u64>(blockIdx.x) * vocabulary;
    float most = __uint_as_float(0xff800000u);
    for (u32 token = threadIdx.x; token < vocabulary; token += blockDim.x) {
        most = fmaxf(most, logits[token]);
    }
    most = block_most(most);
    double sum = 0.0, product = 0.0;
    for (u32 token = threadIdx.x; token < vocabulary; token += blockDim.x) {
        float logit = logits[token] - most, power = expf(logit);
        sum += static_cast<double>(power);
        // A token that cannot come, whose logit is infinite, adds nothing.
        product += power == 0.0f ? 0.0 : static_cast<double>(power * logit);
    }
    sum = block_sum(sum);
    product = block_sum(product);
    if (threadIdx.x == 0) {
        u32 token = next[blockIdx.x];
        float chosen = token < vocabulary ? logits[token] - most : not_a_number();
        scores[blockIdx.x] = {static_cast<double>(chosen) - log(sum), log(sum) - product / sum,
                              chosen >= 0.0f ? 1.0 : 0.0, static_cast<double>(most), 1.0 / sum};
    }
}

// The token with the largest logit of a row, and of several the first.
KERNEL top_tokens(u32 *tops, const float *logits, u32 vocabulary) {
    logits += static_cast<u64>(blockIdx.x) * vocabulary;
    float most = 0.0f;
    u32 top = vocabulary;
    for (u32 token = threadIdx.x; token < vocabulary; token += blockDim.x) {
        if (top == vocabulary || logits[token] > most) {
            most = logits[token];
            top = token;
        }
    }
    float all = block_most(top == vocabulary ? __uint_as_float(0xff800000u) : most);
    top = over_block<Least>(most == all ? top : vocabulary);
    if (threadIdx.x == 0) {
        tops[blockIdx.x] = top;
    }
}

// Weights that are added up together, before single ones are looked at; and how many such parts there may be.
constexpr u32 TOKENS_OF_PART = THREADS, MOST_PARTS = 4096;

// For each row the token at which the running sum of weights, in the order of the tokens, comes to exceed the share
// `uniforms` of all. A weight is the exponential of a logit times `by`; a token with the weight 0 is never chosen.
KERNEL draw_tokens(u32 *tokens, const float *logits, const double *uniforms, u32 vocabulary, float by) {
    __shared__ double sums[MOST_PARTS];
    __shared__ float weights[TOKENS_OF_PART];
    __shared__ double left;
    __shared__ u32 chosen;
    logits += static_cast<u64>(blockIdx.x) * vocabulary;
    float most = __uint_as_float(0xff800000u);
    for (u32 token = threadIdx.x; token < vocabulary; token += blockDim.x) {
        most = fmaxf(most, logits[token]);
    }
    most = block_most(most);
    u32 parts = (vocabulary + TOKENS_OF_PART - 1) / TOKENS_OF_PART;
    for (u32 part = threadIdx.x / WARP; part < parts; part += blockDim.x / WARP) {
        double sum = 0.0;
        for (u32 place = threadIdx.x % WARP; place < TOKENS_OF_PART; place += WARP) {
            u32 token = part * TOKENS_OF_PART + place;
            sum += token < vocabulary ? static_cast<double>(expf((logits[token] - most) * by)) : 0.0;
        }
        sum = over_warp<Sum>(sum);
        if (threadIdx.x % WARP == 0) {
            sums[part] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double all = 0.0;
        for (u32 part = 0; part < parts; part++) {
            all += sums[part];
        }
        left = uniforms[blockIdx.x] * all;
        chosen = 0;
        // Where the sum was rounded up and nothing exceeds it, it is the last one.
        for (u32 part = 0; part < parts; part++) {
            if (sums[part] > 0.0) {
                chosen = part;
                if (left < sums[part]) {
                    break;
                }
                left -= sums[part];
            }
        }
    }
    __syncthreads();
    u32 first = chosen * TOKENS_OF_PART, own = first + threadIdx.x;
    weights[threadIdx.x] = own < vocabulary ? expf((logits[own] - most) * by) : 0.0f;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 token = first;
        for (u32 place = 0; place < TOKENS_OF_PART; place++) {
            if (weights[place] > 0.0f) {
                token = first + place;
                if (left < static_cast<double>(weights[place])) {
                    break;
                }
                left -= static_cast<double>(weights[place]);
            }
        }
        tokens[blockIdx.x] = token;
    }
}

// The gradient of the logits for a loss whose derivative by a row's log-probability is its grade: grade * (1 for
// the token that follows - the probability). Blocks share a row's columns.
template <typename T>
static __device__ __forceinline__ void logits_backward(T *d, const float *logits, const Score *scores, const u32 *next,
                                                       const float *grades, u32 vocabulary) {
    u64 row = static_cast<u64>(blockIdx.x) * vocabulary;
    d += row;
    logits += row;
    float most = static_cast<float>(scores[blockIdx.x].most), grade = grades[blockIdx.x];
    float factor = static_cast<float>(-static_cast<double>(grade) * scores[blockIdx.x].share);
    u32 chosen = next[blockIdx.x];
    for (u64 token = blockIdx.y * blockDim.x + threadIdx.x; token < vocabulary; token += gridDim.y * blockDim.x) {
        float number = factor * expf(logits[token] - most);
        d[token] = narrow<T>(token == chosen ? number + grade : number);
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL logits_backward_##kind(T *d, const float *logits, const Score *scores, const u32 *next,                \
                                  const float *grades, u32 vocabulary) {                                          \
        logits_backward(d, logits, scores, next, grades, vocabulary);                                             \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
