// AdamW, and the norm that gradients are clipped by.

#include "okapi.cuh"

// What is the same for all numbers of a parameter in a step.
struct Step {
    float clip, first, new_first, second, new_second, root, epsilon, size, keep;
};

// Every operation is rounded by itself, as on the processor: the results have its bits.
static __device__ __forceinline__ float adamw(float weight, float gradient, float *first, float *second, Step step) {
    gradient = __fmul_rn(gradient, step.clip);
    float mean = __fadd_rn(__fmul_rn(*first, step.first), __fmul_rn(gradient, step.new_first));
    float square = __fadd_rn(__fmul_rn(*second, step.second), __fmul_rn(__fmul_rn(gradient, gradient), step.new_second));
    *first = mean;
    *second = square;
    float below = __fadd_rn(__fmul_rn(__fsqrt_rn(square), step.root), step.epsilon);
    return __fsub_rn(__fmul_rn(weight, step.keep), __fdiv_rn(__fmul_rn(step.size, mean), below));
}

KERNEL adamw_f32(float *weights, const float *gradient, float *first, float *second, u64 count, float clip,
                 float first_keeps, float new_first, float second_keeps, float new_second, float root, float epsilon,
                 float size, float keep) {
    Step step = {clip, first_keeps, new_first, second_keeps, new_second, root, epsilon, size, keep};
    for (u64 i = first_number(); i < count; i += all_threads()) {
        weights[i] = adamw(weights[i], gradient[i], first + i, second + i, step);
    }
}

// A weight in single precision from its halves, and into them.
static __device__ __forceinline__ float joined(bf16 high, short low) {
    return __uint_as_float((static_cast<u32>(__bfloat16_as_ushort(high)) << 16) + static_cast<u32>(static_cast<int>(low)));
}

static __device__ __forceinline__ void split(float weight, bf16 *high, short *low) {
    // What is no number would be rounded to one.
    u32 bits = weight != weight ? 0x7fc00000u : __float_as_uint(weight);
    u32 rounded = (bits + 0x8000u) >> 16;
    *high = __ushort_as_bfloat16(static_cast<unsigned short>(rounded));
    *low = static_cast<short>(bits - (rounded << 16));
}

KERNEL join_halves(float *weights, const bf16 *highs, const short *lows, u64 count) {
    for (u64 i = first_number(); i < count; i += all_threads()) {
        weights[i] = joined(highs[i], lows[i]);
    }
}

KERNEL split_halves(bf16 *highs, short *lows, const float *weights, u64 count) {
    for (u64 i = first_number(); i < count; i += all_threads()) {
        split(weights[i], highs + i, lows + i);
    }
}

// The weight in single precision has the bits of the one in bfloat16, shifted up, plus the low half. It is within
// half a step of the one in bfloat16, which is therefore the weight rounded.
KERNEL adamw_split(bf16 *weights, short *lows, const float *gradient, float *first, float *second, u64 count,
                   float clip, float first_keeps, float new_first, float second_keeps, float new_second, float root,
                   float epsilon, float size, float keep) {
    Step step = {clip, first_keeps, new_first, second_keeps, new_second, root, epsilon, size, keep};
    for (u64 i = first_number(); i < count; i += all_threads()) {
        float weight = adamw(joined(weights[i], lows[i]), gradient[i], first + i, second + i, step);
        split(weight, weights + i, lows + i);
    }
}

// A block does `each` numbers: its sum of squares is parts[x].
template <typename T>
static __device__ __forceinline__ void sum_of_squares(double *parts, const T *x, u64 count, u32 each) {
    u64 first = static_cast<u64>(blockIdx.x) * each;
    u64 end = first + each < count ? first + each : count;
    double sum = 0.0;
    for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) {
        double number = static_cast<double>(wide(x[i]));
        sum += number * number;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL sum_of_squares_##kind(double *parts, const T *x, u64 count, u32 each) {                                \
        sum_of_squares(parts, x, count, each);                                                                    \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
