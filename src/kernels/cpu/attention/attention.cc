#include "kernels/cpu/attention/attention.h"

namespace kt::kernels::attention {

#define KERNEL(isa, caps)                                                            \
  void attention_##isa(const Args& args) noexcept;                                   \
  void attention_store_##isa(formats::Format format, const float* x, std::int64_t n, \
                             std::byte* out) noexcept;
#include "kernels/cpu/attention/kernels.inc"
#undef KERNEL

namespace {
constexpr Kernel kKernels[] = {
#define KERNEL(isa, caps) {"attention_f32_f32_" #isa, caps, attention_##isa, attention_store_##isa},
#include "kernels/cpu/attention/kernels.inc"
#undef KERNEL
};
}  // namespace

std::span<const Kernel> kernels() { return kKernels; }

const Kernel& select(CpuCaps caps) {
  for (const Kernel& k : kKernels) {
    if ((caps & k.caps) == k.caps) return k;
  }
  return kKernels[std::size(kKernels) - 1];
}

std::int64_t scratch_floats(std::int64_t dim_qk, std::int64_t dim_v) {
  constexpr std::int64_t kLanes = 16;  // the widest vector any ISA pads to
  const std::int64_t dk = (dim_qk + kLanes - 1) / kLanes * kLanes;
  const std::int64_t dv = (dim_v + kLanes - 1) / kLanes * kLanes;
  return (kMaxRows + tensor::kKvPageLen) * (dk + dv) + kMaxRows * (tensor::kKvPageLen + 2);
}

}  // namespace kt::kernels::attention
