#include "kernels/cpu/peak/peak.h"

#include "kernels/cpu/isa_caps.h"

namespace kt::kernels::peak {

#define KERNEL(isa, name, arithmetic, ops_per_round) void name(std::int64_t rounds) noexcept;
#include "kernels/cpu/peak/kernels.inc"
#undef KERNEL

namespace {

constexpr Kernel kKernels[] = {
#define KERNEL(isa, name, arithmetic, ops_per_round) \
  {#name, kCaps_##isa, Arithmetic::arithmetic, ops_per_round, name},
#include "kernels/cpu/peak/kernels.inc"
#undef KERNEL
};

}  // namespace

std::span<const Kernel> kernels() { return kKernels; }

}  // namespace kt::kernels::peak
