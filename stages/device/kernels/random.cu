// Random numbers.

#include "okapi.cuh"

// What random numbers are drawn for, as the host counts it.
constexpr u32 FOR_WEIGHTS = 1;

// Numbers of the normal distribution (Box and Muller, 1958), four from the bits of each count.
template <typename T>
static __device__ __forceinline__ void fill_normal(T *x, u64 count, float deviation, u64 seed) {
    for (u64 four = first_number(); 4 * four < count; four += all_threads()) {
        Bits bits = philox(static_cast<u32>(four), static_cast<u32>(four >> 32), 0, FOR_WEIGHTS, seed);
        for (u32 i = 0; i < 4 && 4 * four + i < count; i++) {
            // From the middle of 2^32 parts of what is between 0 and 1: never 0.
            float radius = (static_cast<float>(bits.of[i & 2]) + 0.5f) * 2.3283064e-10f;
            float sine, cosine;
            sincospif(static_cast<float>(bits.of[(i & 2) + 1]) * 4.6566129e-10f, &sine, &cosine);
            float size = deviation * sqrtf(fmaxf(-2.0f * logf(radius), 0.0f));
            x[4 * four + i] = narrow<T>(size * (i & 1 ? sine : cosine));
        }
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL fill_normal_##kind(T *x, u64 count, float deviation, u64 seed) { fill_normal(x, count, deviation, seed); }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
