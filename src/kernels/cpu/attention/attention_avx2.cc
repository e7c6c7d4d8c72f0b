// Attention for AVX2 + FMA + F16C.
#include <immintrin.h>

#include "base/half.h"
#include "kernels/cpu/attention/attention.h"

#define KT_LANES 8
#define KT_MAX_TILE_ROWS 6
#define KT_BF16 false

namespace kt::kernels::attention {
#include "kernels/cpu/attention/attention_impl.inc"
extern const Kernel kKernel_avx2;
const Kernel kKernel_avx2 = {"attention_avx2", kAvx2,       KT_BF16,     clear_state, load_queries,
                             add_split,        fold_states, finish_rows, store_cached};
}  // namespace kt::kernels::attention
