// Machines written by hand, and times read off measured points and rooflines.
#include "placement/machine.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "placement/cost_model.h"

namespace kt::placement {
namespace {

TEST(Machine, AmountsRatesAndOperations) {
  EXPECT_EQ(parse_bytes("24GiB", "--ram"), std::uint64_t{24} << 30);
  EXPECT_EQ(parse_bytes("512 mb", "--ram"), 512'000'000u);
  EXPECT_EQ(parse_bytes("1e9", "--ram"), 1'000'000'000u);
  EXPECT_DOUBLE_EQ(parse_rate("1000GB/s", "--pcie"), 1e12);
  EXPECT_DOUBLE_EQ(parse_rate("1.5 TB/s", "--pcie"), 1.5e12);
  EXPECT_DOUBLE_EQ(parse_flops("2T", "--cpu-flops"), 2e12);
  EXPECT_DOUBLE_EQ(parse_flops("80TFLOPS", "--cpu-flops"), 80e12);
  EXPECT_DOUBLE_EQ(parse_flops("35 TOPS", "--cpu-flops"), 35e12);
  const Gpu gpu = parse_gpu("24GiB@1000GB/s");
  EXPECT_EQ(gpu.bytes, std::uint64_t{24} << 30);
  EXPECT_DOUBLE_EQ(gpu.bandwidth, 1e12);
  EXPECT_DOUBLE_EQ(gpu.flops, 1e12 * kGpuFlopsPerByte);
  EXPECT_DOUBLE_EQ(parse_gpu("8GB@450GB/s@60TFLOPS").flops, 60e12);
  EXPECT_DOUBLE_EQ(parse_ram("64GiB").bandwidth, 0.0);
}

TEST(Machine, OtherTextIsAUsageError) {
  for (const char* text : {"", "GiB", "-1GiB", "0", "nan", "inf", "1e30", "1GiBB", "1 parsec"}) {
    EXPECT_THROW(parse_bytes(text, "--ram"), Error) << text;
    EXPECT_THROW(parse_rate(text, "--pcie"), Error) << text;
  }
  for (const char* text : {"24GiB", "24GiB@", "@1GB/s", "1GiB@1GB/s@1T@1", "1GiB@1GB/s@fast"})
    EXPECT_THROW(parse_gpu(text), Error) << text;
  EXPECT_THROW(parse_ram("1GiB@1GB/s@1"), Error);
  EXPECT_THROW(parse_flops("2X", "--cpu-flops"), Error);
}

TEST(CpuRates, PointsAreJoinedByLinesAndExtended) {
  CpuRates rates;
  rates.multiply[formats::Format::kQ8_0] = {{1, 1e-9}, {4, 1e-9}, {8, 2e-9}};
  const auto at = [&](double m) { return rates.seconds(formats::Format::kQ8_0, 1e9, m); };
  EXPECT_DOUBLE_EQ(at(0.5), 1.0);
  EXPECT_DOUBLE_EQ(at(2), 1.0);
  EXPECT_DOUBLE_EQ(at(6), 1.5);
  EXPECT_DOUBLE_EQ(at(8), 2.0);
  EXPECT_DOUBLE_EQ(at(32), 8.0);
  EXPECT_DOUBLE_EQ(at(0), 0.0);
}

TEST(CpuRates, TheRooflineHasOneCorner) {
  const CpuRates rates = roofline_rates(100e9, 1e12, 8);
  // F16: 2 bytes a weight are read in 20 ps, a multiply-add takes 2 ps: 10 rows at the corner.
  const auto at = [&](double m) { return rates.seconds(formats::Format::kF16, 1e9, m); };
  EXPECT_DOUBLE_EQ(at(1), 0.02);
  EXPECT_DOUBLE_EQ(at(10), 0.02);
  EXPECT_DOUBLE_EQ(at(20), 0.04);
  EXPECT_FALSE(CpuRates{}.known());
  EXPECT_TRUE(rates.known());
}

TEST(CostModel, TouchedExperts) {
  EXPECT_DOUBLE_EQ(touched_experts(256, 8, 1), 8.0);
  EXPECT_NEAR(touched_experts(256, 8, 512), 256.0, 0.01);
  EXPECT_NEAR(touched_experts(8, 2, 2), 8.0 * (1.0 - 0.75 * 0.75), 1e-12);
}

}  // namespace
}  // namespace kt::placement
