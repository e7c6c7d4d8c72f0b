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

ProductProfile profile(bool tiles, placement::WeightKind kind,
                       backend::ActPolicy act = backend::ActPolicy::kQ16) {
  backend::Cpu cpu(2, {}, detect_caps() & ~kAvx512Bf16, act);
  cpu.batch_kernels = tiles ? backend::BatchKernels::kAll : backend::BatchKernels::kNone;
  return measure_products(cpu, kind, 256, 0);
}

TEST(ProductProfile, OneKernelWithoutTiles) {
  const ProductProfile p = profile(false, {formats::Format::kQ4_0});
  EXPECT_EQ(rows_of(p.rates.few), (std::vector<double>{1, 2, 4, 8, 16, 64, 128}));
  EXPECT_TRUE(p.rates.batch.empty());
  EXPECT_EQ(p.rates.batch_rows_each, 0);
  EXPECT_GT(p.pack, 0.0);
  EXPECT_GE(p.rates.jump, 0.0);
}

TEST(ProductProfile, TwoKernelsWithTiles) {
  for (const auto& [format, each] : {std::pair{formats::Format::kQ4_0, backend::kBatchRowsEachQ8},
                                     {formats::Format::kBF16, backend::kBatchRowsEachF32}}) {
    const ProductProfile p = profile(true, {format});
    EXPECT_EQ(rows_of(p.rates.few), (std::vector<double>{1, 2, 4, 8, 16, 64, 128}));
    EXPECT_EQ(rows_of(p.rates.batch), (std::vector<double>{2, 16, 32, 64, 128, 512}));
    EXPECT_EQ(p.rates.batch_rows_each, each);
    EXPECT_TRUE(p.rates.whole_tiles);
  }
}

TEST(ProductProfile, WeightsWithOneScalePerRowAreMeasuredWithTheKernelTheyRunWith) {
  constexpr placement::WeightKind kByRows = {formats::Format::kQ8_0,
                                             backend::WeightScales::kOfRows};
  const auto kernel = [](placement::WeightKind kind, backend::ActPolicy act) {
    const ProductProfile p = profile(true, kind, act);
    EXPECT_EQ(rows_of(p.rates.batch), (std::vector<double>{2, 16, 32, 64, 128, 512}));
    return p.batch_kernel.substr(0, p.batch_kernel.rfind('_'));  // without the instruction set
  };
  EXPECT_EQ(kernel(kByRows, backend::ActPolicy::kQ8), "dot_f32_i8_q8_0_n16");
  EXPECT_EQ(kernel(kByRows, backend::ActPolicy::kQ16), "dot_f32_bf16_q8_0_n16");
  EXPECT_EQ(kernel({formats::Format::kQ8_0}, backend::ActPolicy::kQ8), "dot_f32_bf16_q8_0_n16");
}

TEST(ProductProfile, VectorsForBatchesAreMeasured) {
  if ((detect_caps() & kAvx512Bf16) == 0) GTEST_SKIP() << "this CPU lacks bf16 vectors";
  backend::Cpu cpu(2, {}, detect_caps() & ~kAmx, backend::ActPolicy::kQ16);
  const ProductProfile p = measure_products(cpu, {formats::Format::kBF16}, 256, 0);
  EXPECT_EQ(p.batch_kernel, "dot_f32_bf16_bf16_n16_avx512bf16");
  EXPECT_EQ(p.rates.batch_rows_each, backend::kBatchRowsEachVectors);
  EXPECT_FALSE(p.rates.whole_tiles);
  EXPECT_TRUE(measure_products(cpu, {formats::Format::kQ4_0}, 256, 0).rates.batch.empty());
}

}  // namespace
}  // namespace kt::session
