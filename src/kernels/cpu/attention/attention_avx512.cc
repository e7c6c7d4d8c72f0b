// Attention for AVX-512.
#include <immintrin.h>

#include "base/half.h"
#include "kernels/cpu/attention/attention.h"

#define KT_LANES 16
#define KT_MAX_TILE_ROWS 12
#define KT_BF16 false

namespace kt::kernels::attention {
#include "kernels/cpu/attention/attention_impl.inc"
extern const Kernel kKernel_avx512;
const Kernel kKernel_avx512 = {"attention_avx512", kAvx512,      KT_BF16,
                               clear_state,        load_queries, add_split,
                               fold_states,        finish_rows,  store_cached};
}  // namespace kt::kernels::attention
