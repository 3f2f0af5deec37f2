// As much of CUDA C++ as the kernels use, for a processor. The threads of a block are fibers of one thread of
// the system; each runs until it finishes or waits for others, so a kernel that waits for nobody costs no more
// than a loop. Blocks run one after the other.
//
// What a GPU leaves open is stopped here: a barrier that some threads of a block never reach, and a shuffle
// in which not all lanes of a warp take part.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// Of the thread of the system, as several devices may run at once.
#define __shared__ static __thread

struct uint3 {
    unsigned x, y, z;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;

// Waits for the other threads of the block.
void __syncthreads();

// Waits for the other lanes of the warp.
void __syncwarp(unsigned lanes = 0xffffffffu);

// Gives `value` to the warp, and takes what lane `source` of it gave.
void emulated_shuffle(unsigned lanes, void *value, std::size_t bytes, unsigned source);

template <typename T> T __shfl_sync(unsigned lanes, T value, int source) {
    emulated_shuffle(lanes, &value, sizeof value, static_cast<unsigned>(source) % 32);
    return value;
}

template <typename T> T __shfl_xor_sync(unsigned lanes, T value, int change) {
    emulated_shuffle(lanes, &value, sizeof value, (threadIdx.x % 32) ^ static_cast<unsigned>(change));
    return value;
}

template <typename T> T __shfl_down_sync(unsigned lanes, T value, unsigned distance) {
    unsigned lane = threadIdx.x % 32;
    emulated_shuffle(lanes, &value, sizeof value, lane + distance < 32 ? lane + distance : lane);
    return value;
}

inline unsigned __float_as_uint(float number) {
    unsigned bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

struct __nv_bfloat16 {
    unsigned short bits;
};

inline float __bfloat162float(__nv_bfloat16 number) {
    return __uint_as_float(static_cast<unsigned>(number.bits) << 16);
}

// To the nearest, and of two as near to the even one.
inline __nv_bfloat16 __float2bfloat16(float number) {
    unsigned bits = __float_as_uint(number);
    if (number != number) {
        return {0x7fff};
    }
    return {static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 number) { return number.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

inline unsigned __umulhi(unsigned one, unsigned other) {
    return static_cast<unsigned>((static_cast<std::uint64_t>(one) * other) >> 32);
}

// Products and sums that no compiler may make one operation of.
inline float __fmul_rn(float one, float other) { return one * other; }
inline float __fadd_rn(float one, float other) { return one + other; }
inline float __fsub_rn(float one, float other) { return one - other; }
inline float __fdiv_rn(float one, float other) { return one / other; }
inline float __fsqrt_rn(float number) { return std::sqrt(number); }

inline float rsqrtf(float number) { return 1.0f / std::sqrt(number); }

inline void sincospif(float number, float *sine, float *cosine) {
    double angle = number * 3.14159265358979323846;
    *sine = static_cast<float>(std::sin(angle));
    *cosine = static_cast<float>(std::cos(angle));
}
