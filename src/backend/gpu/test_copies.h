// Copies of every kind on an opened device, for tests on stand-ins and on real GPUs.
// Thread rule: as the Gpu.
#pragma once
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "backend/gpu/gpu.h"

namespace kt::backend {

/// More than the staging holds goes there, across and back; then columns with gaps. Needs 48 MiB.
inline void expect_copies(Gpu& gpu) {
  const std::size_t n = (std::size_t{20} << 20) / 4 + 3;
  std::vector<std::uint32_t> values(n), back(n);
  std::iota(values.begin(), values.end(), 7u);
  auto* a = gpu.allocate<std::uint32_t>(static_cast<std::int64_t>(n));
  auto* b = gpu.allocate<std::uint32_t>(static_cast<std::int64_t>(n));
  gpu.upload(a, values.data(), n * 4);
  gpu.check(gpu.api().copy(b, a, n * 4, CopyKind::kOnDevice, gpu.stream()), "copy");
  gpu.download(back.data(), b, n * 4);
  EXPECT_EQ(back, values);
  gpu.check(gpu.api().copy_2d({b, 8, a, 12, 4, 5, CopyKind::kOnDevice}, gpu.stream()), "copy_2d");
  gpu.download(back.data(), b, 40);
  const std::vector<std::uint32_t> want = {7, 8, 10, 10, 13, 12, 16, 14, 19, 16};
  EXPECT_EQ(std::vector<std::uint32_t>(back.begin(), back.begin() + 10), want);
}

}  // namespace kt::backend
