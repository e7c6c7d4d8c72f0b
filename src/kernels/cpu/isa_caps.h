// The features that the rows of a kernels.inc need, by the name of their ISA there.
// Thread rule: pure.
#pragma once
#include "base/cpu.h"

namespace kt::kernels {

inline constexpr CpuCaps kCaps_ref = 0;
inline constexpr CpuCaps kCaps_avx2 = kAvx2;
inline constexpr CpuCaps kCaps_avx512 = kAvx2 | kAvx512 | kAvx512Vnni;
inline constexpr CpuCaps kCaps_avx512bf16 = kCaps_avx512 | kAvx512Bf16;
inline constexpr CpuCaps kCaps_amx = kCaps_avx512 | kAmx;

}  // namespace kt::kernels
