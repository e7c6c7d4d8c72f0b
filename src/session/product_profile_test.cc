// Each kernel that products run with is measured over its own numbers of rows. Times are not
// compared: the machine may be busy.
#include "session/product_profile.h"

#include <gtest/gtest.h>

namespace kt::session {
namespace {

using placement::KernelPoint;

std::vector<double> rows_of(const std::vector<KernelPoint>& points) {
  std::vector<double> rows;
  for (const KernelPoint& p : points) {
    EXPECT_GT(p.seconds, 0.0);
    rows.push_back(p.m);
  }
  for (std::size_t i = 1; i < points.size(); ++i)
    EXPECT_GE(points[i].seconds, points[i - 1].seconds);
  return rows;
}

ProductProfile profile(bool tiles, formats::Format format) {
  backend::Cpu cpu(2, {}, detect_caps() & ~kAvx512Bf16, backend::ActPolicy::kQ16);
  cpu.batch_kernels = tiles ? backend::BatchKernels::kAll : backend::BatchKernels::kNone;
  return measure_products(cpu, format, 256, 0);
}

TEST(ProductProfile, OneKernelWithoutTiles) {
  const ProductProfile p = profile(false, formats::Format::kQ4_0);
  EXPECT_EQ(rows_of(p.rates.few), (std::vector<double>{1, 2, 4, 8, 16, 64, 128}));
  EXPECT_TRUE(p.rates.batch.empty());
  EXPECT_EQ(p.rates.batch_rows_each, 0);
  EXPECT_GT(p.pack, 0.0);
  EXPECT_GE(p.rates.jump, 0.0);
}

TEST(ProductProfile, TwoKernelsWithTiles) {
  for (const auto [format, each] : {std::pair{formats::Format::kQ4_0, backend::kBatchRowsEachQ8},
                                    {formats::Format::kBF16, backend::kBatchRowsEachF32}}) {
    const ProductProfile p = profile(true, format);
    EXPECT_EQ(rows_of(p.rates.few), (std::vector<double>{1, 2, 4, 8, 16, 64, 128}));
    EXPECT_EQ(rows_of(p.rates.batch), (std::vector<double>{2, 16, 32, 64, 128, 512}));
    EXPECT_EQ(p.rates.batch_rows_each, each);
  }
}

}  // namespace
}  // namespace kt::session
