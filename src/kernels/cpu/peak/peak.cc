#include "kernels/cpu/peak/peak.h"

namespace kt::kernels::peak {

#define KERNEL(isa, name, arithmetic, ops_per_round) void name(std::int64_t rounds) noexcept;
#include "kernels/cpu/peak/kernels.inc"
#undef KERNEL

namespace {

constexpr CpuCaps kCaps_avx2 = kAvx2;
constexpr CpuCaps kCaps_avx512 = kAvx2 | kAvx512 | kAvx512Vnni;
constexpr CpuCaps kCaps_amx = kCaps_avx512 | kAmx;

constexpr Kernel kKernels[] = {
#define KERNEL(isa, name, arithmetic, ops_per_round) \
  {#name, kCaps_##isa, Arithmetic::arithmetic, ops_per_round, name},
#include "kernels/cpu/peak/kernels.inc"
#undef KERNEL
};

}  // namespace

std::span<const Kernel> kernels() { return kKernels; }

}  // namespace kt::kernels::peak
