#include "base/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/error.h"

namespace kt {
namespace {

struct CpuidResult {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidResult cpuid(unsigned leaf, unsigned subleaf = 0) {
  CpuidResult r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

std::uint64_t xgetbv0() {
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

bool bit(unsigned word, int index) { return (word >> index & 1u) != 0; }

// Linux hands out AMX tile state only on request: arch_prctl(ARCH_REQ_XCOMP_PERM,
// XFEATURE_XTILEDATA).
bool request_amx_permission() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
}

struct IsaLevel {
  const char* name;
  CpuCaps caps;
};
constexpr CpuCaps kAvx512All = kAvx2 | kAvx512 | kAvx512Vnni | kAvx512Bf16;
constexpr std::array<IsaLevel, 4> kLevels = {
    {{"ref", 0}, {"avx2", kAvx2}, {"avx512", kAvx512All}, {"amx", kAvx512All | kAmx}}};

}  // namespace

CpuCaps detect_caps() {
  const CpuidResult l1 = cpuid(1);
  if (!bit(l1.ecx, 27)) return 0;  // no OSXSAVE: the OS saves no vector state
  const std::uint64_t xcr0 = xgetbv0();
  const CpuidResult l7 = cpuid(7);
  const CpuidResult l7s1 = cpuid(7, 1);
  CpuCaps caps = 0;
  const bool ymm = (xcr0 & 0x6) == 0x6;
  if (!ymm || !bit(l1.ecx, 12) || !bit(l1.ecx, 29) || !bit(l7.ebx, 5) || !bit(l7.ebx, 8)) return 0;
  caps |= kAvx2;
  const bool zmm = (xcr0 & 0xe6) == 0xe6;
  const bool avx512 = bit(l7.ebx, 16) && bit(l7.ebx, 17) && bit(l7.ebx, 30) && bit(l7.ebx, 31);
  if (!zmm || !avx512) return caps;
  caps |= kAvx512;
  if (bit(l7.ecx, 11)) caps |= kAvx512Vnni;
  if (bit(l7s1.eax, 5)) caps |= kAvx512Bf16;
  const bool tiles = (xcr0 & 0x60000) == 0x60000;
  // Every CPU with tiles has AVX512-FP16 (bit 23), which the tile kernels expand weights with.
  const bool amx = bit(l7.edx, 22) && bit(l7.edx, 23) && bit(l7.edx, 24) && bit(l7.edx, 25);
  if (tiles && amx && request_amx_permission()) caps |= kAmx;
  return caps;
}

CpuCaps limit_caps(CpuCaps caps, const std::string& isa) {
  for (const IsaLevel& level : kLevels) {
    if (isa != level.name) continue;
    const CpuCaps key = level.caps & (kAmx | kAvx512 | kAvx2);
    if ((caps & key) != key) {
      fail(ErrorCode::kUnsupported, "--isa",
           "this CPU has {} and cannot run '{}'; leave --isa out to use the best it has",
           describe_caps(caps), isa);
    }
    return caps & level.caps;
  }
  fail(ErrorCode::kUsage, "--isa", "'{}' is not an instruction set; use ref, avx2, avx512 or amx",
       isa);
}

std::string describe_caps(CpuCaps caps) {
  std::string text;
  const auto add = [&](CpuFeature f, const char* name) {
    if ((caps & f) != 0) text += (text.empty() ? "" : " ") + std::string(name);
  };
  add(kAvx2, "avx2");
  add(kAvx512, "avx512");
  add(kAvx512Vnni, "vnni");
  add(kAvx512Bf16, "bf16");
  add(kAmx, "amx");
  return text.empty() ? "no vector extensions" : text;
}

std::string cpu_model_name() {
  if (cpuid(0x80000000u).eax < 0x80000004u) return "unknown";
  std::array<char, 49> name{};
  for (unsigned i = 0; i < 3; ++i) {
    const CpuidResult r = cpuid(0x80000002u + i);
    const std::array<unsigned, 4> words = {r.eax, r.ebx, r.ecx, r.edx};
    std::memcpy(name.data() + 16 * i, words.data(), 16);
  }
  const std::string text(name.data());
  const auto first = text.find_first_not_of(' ');
  return first == std::string::npos ? "unknown" : text.substr(first);
}

}  // namespace kt
