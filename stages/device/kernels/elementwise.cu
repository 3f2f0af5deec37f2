// Number by number, and sums over rows.

#include "okapi.cuh"

// Which function a linear layer is followed by, as the host counts them.
constexpr u32 GELU_TANH = 0, GELU = 1, SILU = 2, RELU = 3;

constexpr float GELU_SCALE = 0.7978846f; // sqrt(2 / pi)
constexpr float ROOT_HALF = 0.70710678f;

static __device__ __forceinline__ float activation(float x, u32 which) {
    switch (which) {
    case GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(GELU_SCALE * x * (1.0f + 0.044715f * x * x)));
    case GELU:
        return 0.5f * x * (1.0f + erff(x * ROOT_HALF));
    case SILU:
        return x / (1.0f + expf(-x));
    case RELU:
        return x > 0.0f ? x : x != x ? x : 0.0f;
    default:
        return not_a_number();
    }
}

static __device__ __forceinline__ float activation_slope(float x, u32 which) {
    switch (which) {
    case GELU_TANH: {
        float t = tanhf(GELU_SCALE * x * (1.0f + 0.044715f * x * x));
        float inner = GELU_SCALE * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    case GELU:
        return 0.5f * (1.0f + erff(x * ROOT_HALF)) + x * expf(-0.5f * x * x) * (0.5f * GELU_SCALE);
    case SILU: {
        float share = 1.0f / (1.0f + expf(-x));
        return share * (1.0f + x * (1.0f - share));
    }
    case RELU:
        return x > 0.0f ? 1.0f : x != x ? x : 0.0f;
    default:
        return not_a_number();
    }
}

// y[i] = function(y[i], x[i]), sixteen bytes at a time; the rest one by one.
template <typename T, typename Function>
static __device__ __forceinline__ void each(T *y, const T *x, u64 count, Function function) {
    u64 packs = count / Pack<T>::COUNT;
    for (u64 pack = first_number(); pack < packs; pack += all_threads()) {
        T *to = y + pack * Pack<T>::COUNT;
        Pack<T> old = load_pack<T>(to), other = load_pack<T>(x + pack * Pack<T>::COUNT);
        for (u32 i = 0; i < Pack<T>::COUNT; i++) {
            old.numbers[i] = narrow<T>(function(wide(old.numbers[i]), wide(other.numbers[i])));
        }
        store_pack(to, old);
    }
    u64 last = packs * Pack<T>::COUNT + first_number();
    if (last < count) {
        y[last] = narrow<T>(function(wide(y[last]), wide(x[last])));
    }
}

template <typename T> static __device__ __forceinline__ void add(T *y, const T *x, u64 count) {
    each(y, x, count, [](float one, float other) { return one + other; });
}

template <typename T> static __device__ __forceinline__ void multiply_by(T *y, const T *x, u64 count) {
    each(y, x, count, [](float one, float other) { return one * other; });
}

template <typename T> static __device__ __forceinline__ void scale_by(T *y, float factor, u64 count) {
    each(y, y, count, [factor](float one, float) { return one * factor; });
}

template <typename T> static __device__ __forceinline__ void activate_backward(T *dy, const T *x, u64 count, u32 which) {
    each(dy, x, count, [which](float slope, float x) { return slope * activation_slope(x, which); });
}

template <typename T> static __device__ __forceinline__ void activate(T *y, const T *x, u64 count, u32 which) {
    u64 packs = count / Pack<T>::COUNT;
    for (u64 pack = first_number(); pack < packs; pack += all_threads()) {
        Pack<T> numbers = load_pack<T>(x + pack * Pack<T>::COUNT);
        for (u32 i = 0; i < Pack<T>::COUNT; i++) {
            numbers.numbers[i] = narrow<T>(activation(wide(numbers.numbers[i]), which));
        }
        store_pack(y + pack * Pack<T>::COUNT, numbers);
    }
    u64 last = packs * Pack<T>::COUNT + first_number();
    if (last < count) {
        y[last] = narrow<T>(activation(wide(x[last]), which));
    }
}

template <typename To, typename From>
static __device__ __forceinline__ void cast(To *y, const From *x, u64 count) {
    for (u64 i = first_number(); i < count; i += all_threads()) {
        y[i] = narrow<To>(wide(x[i]));
    }
}

// A thread a column, in every row that its block gets. Rows are `step` numbers apart.
template <typename T>
static __device__ __forceinline__ void add_bias(T *y, const T *bias, u64 rows, u32 columns, u64 step) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < columns) {
        float added = wide(bias[column]);
        for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
            T *at = y + row * step + column;
            *at = narrow<T>(wide(*at) + added);
        }
    }
}

template <typename To, typename From>
static __device__ __forceinline__ void copy_columns(To *to, u64 to_step, const From *from, u64 from_step, u64 rows,
                                                    u32 columns) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < columns) {
        for (u64 row = blockIdx.y; row < rows; row += gridDim.y) {
            to[row * to_step + column] = narrow<To>(wide(from[row * from_step + column]));
        }
    }
}

// A thread a column, and a block of them for `rows_each` rows: parts[y] is their sum.
template <typename T>
static __device__ __forceinline__ void sum_rows(float *parts, const T *dy, u64 rows, u32 columns, u64 step,
                                                u32 rows_each) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    u64 first = static_cast<u64>(blockIdx.y) * rows_each;
    u64 end = first + rows_each < rows ? first + rows_each : rows;
    if (column < columns) {
        float sum = 0.0f;
        for (u64 row = first; row < end; row++) {
            sum += wide(dy[row * step + column]);
        }
        parts[static_cast<u64>(blockIdx.y) * columns + column] = sum;
    }
}

// Adds rows of parts to a row, one after the other.
KERNEL add_parts(float *to, const float *parts, u32 count, u32 columns) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < columns) {
        float sum = 0.0f;
        for (u32 part = 0; part < count; part++) {
            sum += parts[static_cast<u64>(part) * columns + column];
        }
        to[column] += sum;
    }
}

#define KERNELS(T, kind)                                                                                          \
    KERNEL add_##kind(T *y, const T *x, u64 count) { add(y, x, count); }                                          \
    KERNEL multiply_by_##kind(T *y, const T *x, u64 count) { multiply_by(y, x, count); }                          \
    KERNEL scale_by_##kind(T *y, float factor, u64 count) { scale_by(y, factor, count); }                         \
    KERNEL activate_##kind(T *y, const T *x, u64 count, u32 which) { activate(y, x, count, which); }              \
    KERNEL activate_backward_##kind(T *dy, const T *x, u64 count, u32 which) {                                    \
        activate_backward(dy, x, count, which);                                                                   \
    }                                                                                                             \
    KERNEL add_bias_##kind(T *y, const T *bias, u64 rows, u32 columns, u64 step) {                                \
        add_bias(y, bias, rows, columns, step);                                                                   \
    }                                                                                                             \
    KERNEL sum_rows_##kind(float *parts, const T *dy, u64 rows, u32 columns, u64 step, u32 rows_each) {           \
        sum_rows(parts, dy, rows, columns, step, rows_each);                                                      \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
#undef KERNELS

// The kind of what is written comes first.
#define KERNELS(To, From, kinds)                                                                                  \
    KERNEL cast_##kinds(To *y, const From *x, u64 count) { cast(y, x, count); }                                   \
    KERNEL copy_columns_##kinds(To *to, u64 to_step, const From *from, u64 from_step, u64 rows, u32 columns) {    \
        copy_columns(to, to_step, from, from_step, rows, columns);                                                \
    }

KERNELS(float, float, f32_f32)
KERNELS(float, bf16, f32_bf16)
KERNELS(bf16, float, bf16_f32)
KERNELS(bf16, bf16, bf16_bf16)
#undef KERNELS
