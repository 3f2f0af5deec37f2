// What all kernels have in common. Compiled by nvcc for GPUs, and by a C++ compiler for the processor, where
// `cuda_on_host.h` stands in for CUDA.
//
// Every sum has a fixed order: a result depends on the numbers alone, never on which block came first.

#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#else
#include "cuda_on_host.h"
#endif

using u32 = unsigned int;
using u64 = unsigned long long;
using bf16 = __nv_bfloat16;

// Threads of every block, but where a kernel says otherwise.
constexpr u32 THREADS = 256;
constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// A kernel, found by its name.
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

__device__ __forceinline__ float wide(float number) { return number; }
__device__ __forceinline__ float wide(bf16 number) { return __bfloat162float(number); }

// Rounded to a kind: `narrow<bf16>(number)`.
template <typename T> __device__ __forceinline__ T narrow(float number);
template <> __device__ __forceinline__ float narrow<float>(float number) { return number; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float number) { return __float2bfloat16(number); }

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// The first number of a thread in a loop over all, and how far it goes on from there.
__device__ __forceinline__ u64 first_number() { return static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 all_threads() { return static_cast<u64>(gridDim.x) * blockDim.x; }

// Sixteen bytes of numbers, which are read and written at once. They begin at a multiple of sixteen.
template <typename T> struct alignas(16) Pack {
    static constexpr u32 COUNT = 16 / sizeof(T);
    T numbers[COUNT];
};

template <typename T> __device__ __forceinline__ Pack<T> load_pack(const T *at) {
    return *reinterpret_cast<const Pack<T> *>(at);
}

template <typename T> __device__ __forceinline__ void store_pack(T *at, Pack<T> pack) {
    *reinterpret_cast<Pack<T> *>(at) = pack;
}

struct Sum {
    template <typename T> static __device__ __forceinline__ T of(T one, T other) { return one + other; }
};

struct Most {
    static __device__ __forceinline__ float of(float one, float other) { return fmaxf(one, other); }
};

struct Least {
    static __device__ __forceinline__ u32 of(u32 one, u32 other) { return one < other ? one : other; }
};

// Every lane gets what all lanes give, put together by halves.
template <typename Together, typename T> __device__ __forceinline__ T over_warp(T value) {
    for (u32 change = WARP / 2; change > 0; change /= 2) {
        value = Together::of(value, __shfl_xor_sync(ALL_LANES, value, static_cast<int>(change)));
    }
    return value;
}

// Every thread gets what all threads of the block give, put together. All threads have to come. Blocks have
// whole warps, at most 32 of them.
template <typename Together, typename T> __device__ __forceinline__ T over_block(T value) {
    __shared__ T warps[WARP];
    value = over_warp<Together>(value);
    if (threadIdx.x % WARP == 0) {
        warps[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    value = warps[0];
    for (u32 warp = 1; warp < blockDim.x / WARP; warp++) {
        value = Together::of(value, warps[warp]);
    }
    // Who comes next may write over it.
    __syncthreads();
    return value;
}

template <typename T> __device__ __forceinline__ T block_sum(T value) { return over_block<Sum>(value); }
__device__ __forceinline__ float block_most(float value) { return over_block<Most>(value); }

// Philox4x32-10 (Salmon et al., 2011): random bits by counting.
struct Bits {
    u32 of[4];
};

__device__ __forceinline__ Bits philox(u32 zero, u32 one, u32 two, u32 three, u64 seed) {
    u32 key = static_cast<u32>(seed), other_key = static_cast<u32>(seed >> 32);
    for (u32 round = 0; round < 10; round++) {
        u32 high = __umulhi(0xd2511f53u, zero), low = 0xd2511f53u * zero;
        u32 other_high = __umulhi(0xcd9e8d57u, two), other_low = 0xcd9e8d57u * two;
        zero = other_high ^ one ^ key;
        one = other_low;
        two = high ^ three ^ other_key;
        three = low;
        key += 0x9e3779b9u;
        other_key += 0xbb67ae85u;
    }
    return {{zero, one, two, three}};
}
