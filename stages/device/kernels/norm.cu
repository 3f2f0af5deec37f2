// Norms of rows. A block does a row; its sums are of what threads add up by themselves, then of warps.

#include "okapi.cuh"

// What a norm takes away from a row, and what it multiplies the rest with. All threads come, and get it.
struct Statistics {
    float mean, scale;
};

template <typename T>
static __device__ __forceinline__ Statistics statistics(const T *x, u32 width, float epsilon, u32 takes_mean) {
    float mean = 0.0f;
    if (takes_mean) {
        float sum = 0.0f;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            sum += wide(x[i]);
        }
        mean = block_sum(sum) / static_cast<float>(width);
    }
    // Of what is left, not of squares less the square of the mean: rows may be far from 0.
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float away = wide(x[i]) - mean;
        squares += away * away;
    }
    float variance = block_sum(squares) / static_cast<float>(width);
    return {mean, 1.0f / sqrtf(variance + epsilon)};
}

// Without a bias no mean is taken away: RMS norm.
template <typename T>
static __device__ __forceinline__ void norm(T *y, const T *x, const T *weight, const T *bias, u32 width, float epsilon) {
    y += static_cast<u64>(blockIdx.x) * width;
    x += static_cast<u64>(blockIdx.x) * width;
    Statistics of = statistics(x, width, epsilon, bias != nullptr);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float number = (wide(x[i]) - of.mean) * of.scale * wide(weight[i]);
        if (bias != nullptr) {
            number += wide(bias[i]);
        }
        y[i] = narrow<T>(number);
    }
}

// Adds to `dx`, and keeps each row's mean and scale for the gradient of the weight. With n the normed row and
// g = dy * weight: dx += (g - mean(g) - n mean(g n)) * scale; without a mean taken away no mean(g).
template <typename T>
static __device__ __forceinline__ void norm_backward(T *dx, float *kept, const T *x, const T *weight, const T *dy,
                                                     u32 width, float epsilon, u32 takes_mean) {
    u64 row = static_cast<u64>(blockIdx.x) * width;
    dx += row;
    x += row;
    dy += row;
    Statistics of = statistics(x, width, epsilon, takes_mean);
    float along = 0.0f, all = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float graded = wide(dy[i]) * wide(weight[i]);
        along += graded * ((wide(x[i]) - of.mean) * of.scale);
        all += graded;
    }
    along = block_sum(along) / static_cast<float>(width);
    all = takes_mean ? block_sum(all) / static_cast<float>(width) : 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float graded = wide(dy[i]) * wide(weight[i]);
        float normed = (wide(x[i]) - of.mean) * of.scale;
        dx[i] = narrow<T>(wide(dx[i]) + (graded - all - normed * along) * of.scale);
    }
    if (threadIdx.x == 0) {
        kept[2ull * blockIdx.x] = of.mean;
        kept[2ull * blockIdx.x + 1] = of.scale;
    }
}

// A thread a column, and a block of them for `rows_each` rows: parts[y] is their sum of dy * n.
template <typename T>
static __device__ __forceinline__ void norm_weight_parts(float *parts, const T *x, const T *dy, const float *kept,
                                                         u64 rows, u32 width, u32 rows_each) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    u64 first = static_cast<u64>(blockIdx.y) * rows_each;
    u64 end = first + rows_each < rows ? first + rows_each : rows;
    if (column < width) {
        float sum = 0.0f;
        for (u64 row = first; row < end; row++) {
            float normed = (wide(x[row * width + column]) - kept[2 * row]) * kept[2 * row + 1];
            sum += wide(dy[row * width + column]) * normed;
        }
        parts[static_cast<u64>(blockIdx.y) * width + column] = sum;
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL norm_##kind(T *y, const T *x, const T *weight, const T *bias, u32 width, float epsilon) {              \
        norm(y, x, weight, bias, width, epsilon);                                                                 \
    }                                                                                                             \
    KERNEL norm_backward_##kind(T *dx, float *kept, const T *x, const T *weight, const T *dy, u32 width,          \
                                float epsilon, u32 takes_mean) {                                                  \
        norm_backward(dx, kept, x, weight, dy, width, epsilon, takes_mean);                                       \
    }                                                                                                             \
    KERNEL norm_weight_parts_##kind(float *parts, const T *x, const T *dy, const float *kept, u64 rows,           \
                                    u32 width, u32 rows_each) {                                                   \
        norm_weight_parts(parts, x, dy, kept, rows, width, rows_each);                                            \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
