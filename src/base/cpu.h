// What this CPU can execute, as a bit set that selectors take as an argument (so tests inject it).
// `detect_caps` asks cpuid, xgetbv and, for AMX, the kernel's tile permission; call it once per
// process. Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>

namespace kt {

enum CpuFeature : std::uint32_t {
  kAvx2 = 1u << 0,        // AVX2 + FMA + F16C + BMI2: the floor of the fast rows
  kAvx512 = 1u << 1,      // F, BW, DQ, VL
  kAvx512Vnni = 1u << 2,  // int8 dot products
  kAvx512Bf16 = 1u << 3,  // bf16 dot products
  kAmx = 1u << 4,         // tiles: int8 and bf16, permission granted; with AVX512-FP16
};

/// Set of CpuFeature bits; 0 runs the reference rows only.
using CpuCaps = std::uint32_t;

/// Features of the running CPU that the operating system lets this process use.
CpuCaps detect_caps();

/// Limits `caps` to an ISA level named "ref", "avx2", "avx512" or "amx"; throws kUsage for other
/// names and kUnsupported when the CPU lacks the level.
CpuCaps limit_caps(CpuCaps caps, const std::string& isa);

/// "avx2 avx512 vnni bf16 amx", for people.
std::string describe_caps(CpuCaps caps);

/// "AMD EPYC …" from cpuid, or "unknown".
std::string cpu_model_name();

}  // namespace kt
