#include "kernels/cpu/attention/attention.h"

#include <algorithm>

namespace kt::kernels::attention {

#define KERNEL(isa) extern const Kernel kKernel_##isa;
#include "kernels/cpu/attention/kernels.inc"
#undef KERNEL

namespace {
constexpr const Kernel* kKernels[] = {
#define KERNEL(isa) &kKernel_##isa,
#include "kernels/cpu/attention/kernels.inc"
#undef KERNEL
};

// To a multiple that suits every ISA's panels and tiles.
std::int64_t padded(std::int64_t n) { return (n + 31) / 32 * 32; }
}  // namespace

std::span<const Kernel* const> kernels() { return kKernels; }

const Kernel& select(CpuCaps caps, bool bf16) {
  return **std::find_if(std::begin(kKernels), std::end(kKernels), [&](const Kernel* k) {
    return k->bf16 == bf16 && (caps & k->caps) == k->caps;
  });
}

std::int64_t state_floats(std::int64_t dim_v) { return kMaxRows * (2 + padded(dim_v)); }

std::int64_t scratch_floats(std::int64_t dim_qk, std::int64_t dim_v) {
  const std::int64_t dk = padded(dim_qk), dv = padded(dim_v);
  // Queries and a block of keys, values, and 8 rows on their way; or, in bf16, all of the split's
  // values and all weights.
  const std::int64_t vectors = (kMaxRows + tensor::kKvPageLen + 8) * dk + tensor::kKvPageLen * dv;
  const std::int64_t tiles =
      ((kMaxRows + tensor::kKvPageLen) * dk + kSplitKeys * dv + kMaxRows * kSplitKeys) / 2;
  return std::max(vectors, tiles) + kMaxRows * kSplitKeys + state_floats(dim_v);
}

SplitRange splits(std::int64_t position, std::int64_t window, std::int64_t end) {
  const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
  const std::int64_t begin = oldest / kSplitKeys * kSplitKeys;
  return {begin, (end - begin + kSplitKeys - 1) / kSplitKeys};
}

}  // namespace kt::kernels::attention
