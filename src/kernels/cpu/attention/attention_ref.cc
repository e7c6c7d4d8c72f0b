// Attention without ISA extensions: the twin that the fast rows are tested against.
#include "base/half.h"
#include "kernels/cpu/attention/attention.h"

#pragma GCC diagnostic ignored "-Wpsabi"
#define KT_LANES 4
#define KT_MAX_TILE_ROWS 4
#define KT_BF16 false

namespace kt::kernels::attention {
#include "kernels/cpu/attention/attention_impl.inc"
extern const Kernel kKernel_ref;
const Kernel kKernel_ref = {"attention_ref", 0,           KT_BF16,     clear_state, load_queries,
                            add_split,       fold_states, finish_rows, store_cached};
}  // namespace kt::kernels::attention
