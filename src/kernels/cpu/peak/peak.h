// How fast one core multiplies at most, by instruction set: multiply-adds on registers with enough
// independent sums, no memory. What kernels of the other families reach is told as a share of
// these.
//
//   int8   AMX tdpbssd, AVX-512 VNNI vpdpbusd, AVX2 four maddubs to one widening
//   bf16   AMX tdpbf16ps, AVX-512 vdpbf16ps
//   f32    fused multiply-add
//
// Thread rule: pure; called concurrently by all threads of a measurement.
#pragma once
#include <cstdint>
#include <span>

#include "base/cpu.h"

namespace kt::kernels::peak {

enum class Arithmetic : std::uint8_t { kF32, kBf16, kInt8, kInt16 };

struct Kernel {
  const char* name;  // peak_<arithmetic>_<isa>
  CpuCaps caps;      // features it needs
  Arithmetic arithmetic;
  double ops_per_round;
  void (*run)(std::int64_t rounds) noexcept;
};

/// All rows of kernels.inc.
std::span<const Kernel> kernels();

}  // namespace kt::kernels::peak
