// Attention for AVX2 + FMA + F16C.
#include <immintrin.h>

#include "base/half.h"
#include "kernels/cpu/attention/attention.h"

#define KT_LANES 8

namespace kt::kernels::attention {
#include "kernels/cpu/attention/attention_impl.inc"
void attention_avx2(const Args& args) noexcept { run_attention(args); }
void attention_store_avx2(formats::Format format, const float* x, std::int64_t n,
                          std::byte* out) noexcept {
  store_cached(format, x, n, out);
}
}  // namespace kt::kernels::attention
