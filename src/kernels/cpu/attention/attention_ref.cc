// Attention without ISA extensions: the twin that the fast rows are tested against.
#include "base/half.h"
#include "kernels/cpu/attention/attention.h"

#pragma GCC diagnostic ignored "-Wpsabi"
#define KT_LANES 4

namespace kt::kernels::attention {
#include "kernels/cpu/attention/attention_impl.inc"
void attention_ref(const Args& args) noexcept { run_attention(args); }
void attention_store_ref(formats::Format format, const float* x, std::int64_t n,
                         std::byte* out) noexcept {
  store_cached(format, x, n, out);
}
}  // namespace kt::kernels::attention
