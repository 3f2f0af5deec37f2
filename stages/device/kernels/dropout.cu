// Numbers that are left out in training.

#include "okapi.cuh"

// What random numbers are drawn for, as the host counts it.
constexpr u32 FOR_DROPOUT = 3;

// A block does a row: number n of it is left out if the n-th bits of its stream are below the threshold.
template <typename T>
static __device__ __forceinline__ void drop_out(T *x, u32 width, u32 threshold, float scale, u64 seed, u32 step) {
    x += static_cast<u64>(blockIdx.x) * width;
    for (u32 first = 4 * threadIdx.x; first < width; first += 4 * blockDim.x) {
        Bits bits = philox(first / 4, step, blockIdx.x, FOR_DROPOUT, seed);
        for (u32 i = 0; i < 4 && first + i < width; i++) {
            float number = wide(x[first + i]);
            x[first + i] = narrow<T>(bits.of[i] < threshold ? 0.0f : number * scale);
        }
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL drop_out_##kind(T *x, u32 width, u32 threshold, float scale, u64 seed, u32 step) {                     \
        drop_out(x, width, threshold, scale, seed, step);                                                         \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
