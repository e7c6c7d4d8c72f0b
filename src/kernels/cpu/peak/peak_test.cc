// The peak kernels: every row that this CPU can run does, and takes longer for more rounds.
#include "kernels/cpu/peak/peak.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace kt::kernels::peak {
namespace {

double seconds(const Kernel& kernel, std::int64_t rounds) {
  const auto start = std::chrono::steady_clock::now();
  kernel.run(rounds);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(Peak, TheLoopIsNotOptimisedAway) {
  const CpuCaps caps = detect_caps();
  for (const Kernel& kernel : kernels()) {
    if ((caps & kernel.caps) != kernel.caps) continue;
    kernel.run(0);
    // 10^7 rounds of 12 or more instructions take a million cycles on anything that exists.
    EXPECT_GT(seconds(kernel, 10'000'000), 1e-3) << kernel.name;
    EXPECT_LT(kernel.ops_per_round * 1e7 / seconds(kernel, 10'000'000), 1e14) << kernel.name;
  }
}

TEST(Peak, NamesSayIsaAndArithmetic) {
  for (const Kernel& kernel : kernels()) {
    const std::string name = kernel.name;
    const bool int8 = name.find("int8") != std::string::npos;
    EXPECT_EQ(int8, kernel.arithmetic == Arithmetic::kInt8) << name;
    EXPECT_EQ(name.find("int16") != std::string::npos, kernel.arithmetic == Arithmetic::kInt16);
    EXPECT_EQ(name.find("amx") != std::string::npos, (kernel.caps & kAmx) != 0) << name;
    EXPECT_GT(kernel.ops_per_round, 0.0);
  }
}

}  // namespace
}  // namespace kt::kernels::peak
