// Rotary positions: pairs of numbers turned by an angle that grows with the position.

#include "okapi.cuh"

// A block does a row. `table` has, for each position and pair, a sine and a cosine. A position that it lacks
// leaves no numbers.
template <typename T>
static __device__ __forceinline__ void turn(T *rows, u64 step, const u32 *heads, u32 head_count, const u32 *positions,
                                            const float *table, u32 table_positions, u32 half, u32 back) {
    T *row = rows + blockIdx.x * step;
    u32 position = positions[blockIdx.x];
    for (u32 i = threadIdx.x; i < head_count * half; i += blockDim.x) {
        u32 head = i / half, pair = i - head * half;
        float sine = not_a_number(), cosine = sine;
        if (position < table_positions) {
            const float *at = table + 2 * (static_cast<u64>(position) * half + pair);
            sine = back ? -at[0] : at[0];
            cosine = at[1];
        }
        T *one = row + heads[head] + pair, *other = one + half;
        float x = wide(*one), y = wide(*other);
        *one = narrow<T>(x * cosine - y * sine);
        *other = narrow<T>(y * cosine + x * sine);
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL turn_##kind(T *rows, u64 step, const u32 *heads, u32 head_count, const u32 *positions,                 \
                       const float *table, u32 table_positions, u32 half, u32 back) {                             \
        turn(rows, step, heads, head_count, positions, table, table_positions, half, back);                       \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
