// Kernels with mistakes that the emulation has to find.

#include "okapi.cuh"

// Half of the block waits for the other, which is gone.
KERNEL broken_barrier(float *to) {
    if (threadIdx.x < blockDim.x / 2) {
        __syncthreads();
        to[threadIdx.x] = 1.0f;
    }
}

// Some lanes of a warp wait for those that wait for the block.
KERNEL broken_shuffle(float *to) {
    float value = static_cast<float>(threadIdx.x);
    if (threadIdx.x % 2 == 0) {
        value = __shfl_xor_sync(ALL_LANES, value, 1);
    } else {
        __syncthreads();
    }
    to[threadIdx.x] = value;
}

// Not all lanes take part.
KERNEL broken_lanes(float *to) {
    if (threadIdx.x < 16) {
        to[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1);
    }
}

// Every thread reads what its neighbours on both sides write, and nobody waits: in whatever order threads run,
// somebody reads too early.
KERNEL broken_race(float *to) {
    __shared__ float numbers[THREADS];
    numbers[threadIdx.x] = -1.0f;
    __syncthreads();
    numbers[threadIdx.x] = static_cast<float>(threadIdx.x);
    to[threadIdx.x] = numbers[(threadIdx.x + 1) % blockDim.x] + numbers[(threadIdx.x + blockDim.x - 1) % blockDim.x];
}

// One number too many.
KERNEL broken_bounds(float *to, u32 count) {
    for (u32 i = threadIdx.x; i <= count; i += blockDim.x) {
        to[i] = 0.0f;
    }
}
