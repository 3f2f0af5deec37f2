// Rows of a table, and sums of gradients by row.

#include "okapi.cuh"

// A block does a row. One that the table lacks becomes no numbers.
template <typename T>
static __device__ __forceinline__ void gather(T *to, const T *table, u64 table_rows, u32 width, const u32 *rows) {
    u32 row = rows[blockIdx.x];
    const T *from = table + static_cast<u64>(row) * width;
    to += static_cast<u64>(blockIdx.x) * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = row < table_rows ? from[i] : narrow<T>(not_a_number());
    }
}

// A block does a row of `to`: `targets` names it, and `ends` where the numbers of the rows to be added end among
// `sources`. They are added one after the other.
template <typename To, typename From>
static __device__ __forceinline__ void scatter_add(To *to, u32 width, const u32 *targets, const u32 *ends,
                                                   const u32 *sources, const From *d) {
    u32 first = blockIdx.x == 0 ? 0 : ends[blockIdx.x - 1], end = ends[blockIdx.x];
    to += static_cast<u64>(targets[blockIdx.x]) * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = wide(to[i]);
        for (u32 place = first; place < end; place++) {
            sum += wide(d[static_cast<u64>(sources[place]) * width + i]);
        }
        to[i] = narrow<To>(sum);
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL gather_##kind(T *to, const T *table, u64 table_rows, u32 width, const u32 *rows) {                     \
        gather(to, table, table_rows, width, rows);                                                               \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS

#define KERNELS(To, From, kinds)                                                                                  \
    KERNEL scatter_add_##kinds(To *to, u32 width, const u32 *targets, const u32 *ends, const u32 *sources,        \
                               const From *d) {                                                                   \
        scatter_add(to, width, targets, ends, sources, d);                                                        \
    }

KERNELS(float, float, f32_f32)
KERNELS(float, bf16, f32_bf16)
KERNELS(bf16, bf16, bf16_bf16)
#undef KERNELS
