// Caches of keys and values, [heads, room, width] each, and attention of one new token to them.

#include "okapi.cuh"

// What the host says of a cache, and of the rows that belong to it.
struct Cache {
    u64 keys, values; // Their places.
    u64 room, tokens; // So many tokens may be there, and are.
    u64 first, count; // Its rows.
};

// Rows' keys and values, behind those that each cache (blockIdx.y) has.
template <typename T>
static __device__ __forceinline__ void cache_append(const Cache *caches, const T *rows, u64 row_step, u32 pairs,
                                                    u32 width, u64 keys_place, u64 values_place, u64 pair_step) {
    Cache cache = caches[blockIdx.y];
    T *keys = reinterpret_cast<T *>(cache.keys), *values = reinterpret_cast<T *>(cache.values);
    u64 count = pairs * cache.count * width;
    for (u64 i = first_number(); i < count; i += all_threads()) {
        u64 whole = i / width, pair = whole / cache.count, row = whole - pair * cache.count, column = i - whole * width;
        const T *from = rows + (cache.first + row) * row_step + pair * pair_step + column;
        u64 to = (pair * cache.room + cache.tokens + row) * width + column;
        keys[to] = from[keys_place];
        values[to] = from[values_place];
    }
}

// Columns of a head that a lane has, at most, and keys that a warp looks at together.
constexpr u32 PARTS = 8, KEYS = 4;
constexpr u32 WARPS = THREADS / WARP;

// Attention of one row for every cache (blockIdx.y), by a block for each head of queries (blockIdx.x). Warps share
// the keys; each has the exponentials of its scores relative to the largest that it has seen so far.
template <typename T>
static __device__ __forceinline__ void attend_once(T *to, const Cache *caches, const T *rows, u64 row_step,
                                                   u64 head_step, const float *slopes, u32 queries_each, u32 width,
                                                   float scale) {
    __shared__ float mosts[WARPS], sums[WARPS], means[WARPS][PARTS * WARP];
    Cache cache = caches[blockIdx.y];
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u64 block = static_cast<u64>(blockIdx.x / queries_each) * cache.room * width;
    const T *keys = reinterpret_cast<const T *>(cache.keys) + block;
    const T *values = reinterpret_cast<const T *>(cache.values) + block;
    const T *row = rows + cache.first * row_step + blockIdx.x * head_step;
    float slope = slopes == nullptr ? 0.0f : slopes[blockIdx.x];
    float query[PARTS], mean[PARTS];
    for (u32 part = 0; part < PARTS; part++) {
        u32 column = part * WARP + lane;
        query[part] = column < width ? wide(row[column]) * scale : 0.0f;
        mean[part] = 0.0f;
    }
    const float nothing = __uint_as_float(0xff800000u);
    float most = nothing, sum = 0.0f;
    for (u64 first = warp * KEYS; first < cache.tokens; first += WARPS * KEYS) {
        float scores[KEYS];
        for (u32 i = 0; i < KEYS; i++) {
            scores[i] = 0.0f;
            for (u32 part = 0; part < PARTS; part++) {
                u32 column = part * WARP + lane;
                if (column < width && first + i < cache.tokens) {
                    scores[i] += query[part] * wide(keys[(first + i) * width + column]);
                }
            }
        }
        float before = most;
        for (u32 i = 0; i < KEYS; i++) {
            scores[i] = over_warp<Sum>(scores[i]);
            if (first + i < cache.tokens) {
                scores[i] -= slope * static_cast<float>(cache.tokens - 1 - first - i);
            } else {
                scores[i] = nothing;
            }
            most = fmaxf(most, scores[i]);
        }
        float keep = expf(before - most);
        sum *= keep;
        for (u32 part = 0; part < PARTS; part++) {
            mean[part] *= keep;
        }
        for (u32 i = 0; i < KEYS; i++) {
            float share = expf(scores[i] - most);
            sum += share;
            for (u32 part = 0; part < PARTS; part++) {
                u32 column = part * WARP + lane;
                if (column < width && first + i < cache.tokens) {
                    mean[part] += share * wide(values[(first + i) * width + column]);
                }
            }
        }
    }
    if (lane == 0) {
        mosts[warp] = most;
        sums[warp] = sum;
    }
    for (u32 part = 0; part < PARTS; part++) {
        means[warp][part * WARP + lane] = mean[part];
    }
    __syncthreads();
    for (u32 i = 0; i < WARPS; i++) {
        most = fmaxf(most, mosts[i]);
    }
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        float all = 0.0f, together = 0.0f;
        for (u32 i = 0; i < WARPS; i++) {
            // A warp without keys has 0 of all.
            float keep = expf(mosts[i] - most);
            all += keep * sums[i];
            together += keep * means[i][column];
        }
        u64 heads = gridDim.x;
        to[(cache.first * heads + blockIdx.x) * width + column] = narrow<T>(together / all);
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL cache_append_##kind(const Cache *caches, const T *rows, u64 row_step, u32 pairs, u32 width,            \
                               u64 keys_place, u64 values_place, u64 pair_step) {                                 \
        cache_append(caches, rows, row_step, pairs, width, keys_place, values_place, pair_step);                  \
    }                                                                                                             \
    KERNEL attend_once_##kind(T *to, const Cache *caches, const T *rows, u64 row_step, u64 head_step,             \
                              const float *slopes, u32 queries_each, u32 width, float scale) {                    \
        attend_once(to, caches, rows, row_step, head_step, slopes, queries_each, width, scale);                   \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS
