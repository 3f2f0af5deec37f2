// What attention needs beside products. A warp does a row of scores: no row waits for another.

#include "okapi.cuh"

// From scores to shares, for `count` queries of every head (blockIdx.y): each sees `before` keys, those of the
// queries before it here, and its own. Shares of keys behind it are 0. Rows are `step` numbers apart. In single
// precision `shares` may be `scores`. A bias falls with the distance (ALiBi).
template <typename T>
static __device__ __forceinline__ void attention_shares(T *shares, const float *scores, const float *slopes, u32 count,
                                                        u32 columns, u32 step, u32 before) {
    u32 query = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (query >= count) {
        return;
    }
    u64 row = (static_cast<u64>(blockIdx.y) * count + query) * step;
    shares += row;
    scores += row;
    u32 last = before + query;
    float slope = slopes == nullptr ? 0.0f : slopes[blockIdx.y];
    float most = __uint_as_float(0xff800000u);
    for (u32 key = lane; key <= last; key += WARP) {
        most = fmaxf(most, scores[key] - slope * static_cast<float>(last - key));
    }
    most = over_warp<Most>(most);
    float sum = 0.0f;
    for (u32 key = lane; key <= last; key += WARP) {
        sum += expf(scores[key] - slope * static_cast<float>(last - key) - most);
    }
    float share = 1.0f / over_warp<Sum>(sum);
    for (u32 key = lane; key < columns; key += WARP) {
        float seen = 0.0f;
        if (key <= last) {
            seen = expf(scores[key] - slope * static_cast<float>(last - key) - most) * share;
        }
        shares[key] = narrow<T>(seen);
    }
}

// The gradient of scores, over the shares: share * (its gradient - the mean of all gradients by share).
template <typename T>
static __device__ __forceinline__ void attention_shares_backward(T *shares, const float *d_shares, u32 count,
                                                                 u32 step, u32 before) {
    u32 query = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (query >= count) {
        return;
    }
    u64 row = (static_cast<u64>(blockIdx.y) * count + query) * step;
    shares += row;
    d_shares += row;
    u32 last = before + query;
    float mean = 0.0f;
    for (u32 key = lane; key <= last; key += WARP) {
        mean += wide(shares[key]) * d_shares[key];
    }
    mean = over_warp<Sum>(mean);
    // Behind the last key shares are 0, and stay so.
    for (u32 key = lane; key <= last; key += WARP) {
        shares[key] = narrow<T>(wide(shares[key]) * (d_shares[key] - mean));
    }
}

// Rows of heads that stand side by side into rows where they are `head_step` apart. A thread a column, in every row
// that its block gets.
template <typename T>
static __device__ __forceinline__ void heads_to_rows(T *to, u64 row_step, u64 head_step, const float *from, u64 rows,
                                                     u32 heads, u32 width) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x, columns = heads * width;
    if (column < columns) {
        u32 head = column / width;
        to += head * head_step + (column - head * width);
        for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
            to[row * row_step] = narrow<T>(from[row * columns + column]);
        }
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL attention_shares_##kind(T *shares, const float *scores, const float *slopes, u32 count, u32 columns,   \
                                   u32 step, u32 before) {                                                        \
        attention_shares(shares, scores, slopes, count, columns, step, before);                                   \
    }                                                                                                             \
    KERNEL attention_shares_backward_##kind(T *shares, const float *d_shares, u32 count, u32 step, u32 before) {  \
        attention_shares_backward(shares, d_shares, count, step, before);                                         \
    }                                                                                                             \
    KERNEL heads_to_rows_##kind(T *to, u64 row_step, u64 head_step, const float *from, u64 rows, u32 heads,       \
                                u32 width) {                                                                      \
        heads_to_rows(to, row_step, head_step, from, rows, heads, width);                                         \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
