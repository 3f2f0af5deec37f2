// All kernels, compiled for the processor, and the table of their names.

#include "launch.h"

#include "broken_kernels.cu"

#include "../kernels/adamw.cu"
#include "../kernels/attention.cu"
#include "../kernels/dropout.cu"
#include "../kernels/elementwise.cu"
#include "../kernels/embedding.cu"
#include "../kernels/head.cu"
#include "../kernels/kv_cache.cu"
#include "../kernels/norm.cu"
#include "../kernels/random.cu"
#include "../kernels/rotary.cu"

#define BOTH(name) EMULATED_KERNEL(name##_f32) EMULATED_KERNEL(name##_bf16)
#define FROM_BOTH(name) BOTH(name##_f32) BOTH(name##_bf16)

const Kernel okapi_emulated_kernels[] = {
    // clang-format off
    // adamw.cu
    EMULATED_KERNEL(join_halves) EMULATED_KERNEL(split_halves) EMULATED_KERNEL(adamw_f32)
    EMULATED_KERNEL(adamw_split) BOTH(sum_of_squares)
    // attention.cu
    BOTH(attention_shares) BOTH(attention_shares_backward) BOTH(heads_to_rows)
    // dropout.cu
    BOTH(drop_out)
    // elementwise.cu
    BOTH(add) BOTH(multiply_by) BOTH(scale_by) BOTH(activate) BOTH(activate_backward) BOTH(add_bias)
    BOTH(sum_rows) EMULATED_KERNEL(add_parts) FROM_BOTH(cast) FROM_BOTH(copy_columns)
    // embedding.cu
    BOTH(gather) BOTH(scatter_add_f32) EMULATED_KERNEL(scatter_add_bf16_bf16)
    // head.cu
    EMULATED_KERNEL(token_scores) EMULATED_KERNEL(top_tokens) EMULATED_KERNEL(draw_tokens)
    BOTH(logits_backward)
    // kv_cache.cu
    BOTH(cache_append) BOTH(attend_once)
    // norm.cu
    BOTH(norm) BOTH(norm_backward) BOTH(norm_weight_parts)
    // random.cu
    BOTH(fill_normal)
    // rotary.cu
    BOTH(turn)
    // broken_kernels.cu
    EMULATED_KERNEL(broken_barrier) EMULATED_KERNEL(broken_shuffle) EMULATED_KERNEL(broken_lanes)
    EMULATED_KERNEL(broken_race) EMULATED_KERNEL(broken_bounds)
    // clang-format on
    {nullptr, nullptr, nullptr},
};
