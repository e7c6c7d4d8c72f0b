// Machines written by hand, and times read off measured points and rooflines.
#include "placement/machine.h"

#include <gtest/gtest.h>

#include <random>

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

ProductRows rows(double m) { return {m, 1, 1, m}; }

TEST(CpuRates, PointsAreJoinedByLinesAndExtended) {
  CpuRates rates;
  rates.multiply[{formats::Format::kQ8_0}][512].few = {{1, 1e-9}, {4, 1e-9}, {8, 2e-9}};
  const auto at = [&](double m) {
    return rates.seconds({{formats::Format::kQ8_0}, 512, 1e9, 0}, rows(m));
  };
  EXPECT_DOUBLE_EQ(at(0.5), 1.0);
  EXPECT_DOUBLE_EQ(at(2), 1.0);
  EXPECT_DOUBLE_EQ(at(6), 1.5);
  EXPECT_DOUBLE_EQ(at(8), 2.0);
  EXPECT_DOUBLE_EQ(at(32), 8.0);
  EXPECT_DOUBLE_EQ(at(0), 0.0);
}

TEST(CpuRates, WidthsAndJumpsCount) {
  CpuRates rates;
  rates.n_threads = 4;
  auto& measured = rates.multiply[{formats::Format::kQ8_0}];
  measured[512] = {{{1, 1e-9}}, {}, 0, false, 2e-6};
  measured[4096] = {{{1, 3e-9}}, {}, 0, false, 0.0};
  const auto at = [&](std::int64_t k, double n_pieces) {
    return rates.seconds({{formats::Format::kQ8_0}, k, 1e6, n_pieces}, rows(1));
  };
  EXPECT_DOUBLE_EQ(at(512, 0), 1e-3);
  EXPECT_DOUBLE_EQ(at(4096, 0), 3e-3);
  EXPECT_DOUBLE_EQ(at(768, 0), 3e-3) << "the next above";
  EXPECT_DOUBLE_EQ(at(9999, 0), 3e-3) << "the widest";
  EXPECT_DOUBLE_EQ(at(512, 100), 1e-3 + 100 * 2e-6 / 4) << "each thread has its own";
}

TEST(CpuRates, OneScalePerRowHasRatesOfItsOwn) {
  constexpr auto kByRows = backend::WeightScales::kOfRows;
  CpuRates rates;
  rates.multiply[{formats::Format::kQ8_0}][512] = {{{1, 1e-9}}, {{32, 4e-9}}, 5, true};
  const auto at = [&](backend::WeightScales scales, const ProductRows& r) {
    return rates.seconds({{formats::Format::kQ8_0, scales}, 512, 1e9, 0}, r);
  };
  const ProductRows batch = {20, 64, 20, 32};
  rates.multiply[{formats::Format::kQ8_0, kByRows}][512] = {{{1, 1e-9}}, {{32, 2e-9}}, 5, true};
  EXPECT_DOUBLE_EQ(at(backend::WeightScales::kOfBlocks, batch), 4.0);
  EXPECT_DOUBLE_EQ(at(kByRows, batch), 2.0);
}

TEST(CpuRates, VectorsDoNotFillUpTiles) {
  CpuRates rates;
  auto& measured = rates.multiply[{formats::Format::kBF16}];
  measured[512] = {{{1, 1e-9}}, {{16, 1e-9}, {32, 2e-9}}, 5, false};
  const auto at = [&] {
    return rates.seconds({{formats::Format::kBF16}, 512, 1e9, 0}, {24, 64, 24, 32});
  };
  EXPECT_DOUBLE_EQ(at(), 1.5);
  measured[512].whole_tiles = true;
  EXPECT_DOUBLE_EQ(at(), 2.0);
}

// One sparse layer: what its experts take when `n` rows pass, of a tile kernel that is ten times as
// fast as the other.
double experts_seconds(std::int64_t n, std::int64_t n_experts, std::int64_t n_active) {
  io::ModelConfig config;
  config.moe.n_experts = n_experts;
  config.moe.n_active = n_active;
  ModuleCost experts;
  experts.kind = "Experts";
  experts.part = Part::kExperts;
  experts.device = "cpu";
  experts.kept.add({formats::Format::kQ8_0, formats::Format::kQ8_0, 1000, 1000, n_experts});
  Machine machine;
  machine.cpu.read = 1e9;
  machine.cpu.multiply[{formats::Format::kQ8_0}][1000] = {{{1, 1e-9}}, {{1, 1e-10}}, 5, true};
  const std::vector<ModuleCost> modules = {experts};
  return step_time({config, modules, {}, formats::Format::kF16, machine}, {n, 0}).seconds;
}

TEST(CostModel, ExpertsTakeTheTileKernelByTheRowsOfTheStepAndTheirOwn) {
  const auto slow = [](double n_rows) { return n_rows * 1e6 * 1e-9; };
  // 31 rows are too few; 32 give each of 8 experts 8; each of 64 would get only 3.
  EXPECT_NEAR(experts_seconds(31, 8, 2), slow(31 * 2), 1e-9);
  const auto fast = [](std::int64_t n_rows, std::int64_t n_experts, std::int64_t n_active) {
    const double each = static_cast<double>(n_rows * n_active) / static_cast<double>(n_experts);
    return touched_experts(n_experts, n_active, static_cast<double>(n_rows)) *
           tile_rows_of_expert(each) * 1e6 * 1e-10;
  };
  EXPECT_NEAR(experts_seconds(32, 8, 2), fast(32, 8, 2), 1e-9);
  EXPECT_NEAR(experts_seconds(32, 64, 6), slow(32 * 6), 1e-9);
  EXPECT_NEAR(experts_seconds(54, 64, 6), fast(54, 64, 6), 1e-9);
}

TEST(CpuRates, TheRooflineHasOneCorner) {
  const CpuRates rates = roofline_rates(100e9, 1e12, 8);
  // F16: 2 bytes a weight are read in 20 ps, a multiply-add takes 2 ps: 10 rows at the corner.
  const auto at = [&](double m) {
    return rates.seconds({{formats::Format::kF16}, 512, 1e9, 0}, rows(m));
  };
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

TEST(TileRows, OfExpertsByChance) {
  EXPECT_EQ(backend::batch_tile_rows(1), 16);
  EXPECT_EQ(backend::batch_tile_rows(17), 32);
  EXPECT_EQ(backend::batch_tile_rows(65), 96);
  EXPECT_NEAR(tile_rows_of_expert(0.01), 16.0, 0.01);
  // Simulated: 100000 experts of 32 rows on average.
  std::mt19937 rng(1);
  std::poisson_distribution<std::int64_t> draw(32.0);
  double sum = 0.0;
  for (int i = 0; i < 100000; ++i) sum += static_cast<double>(backend::batch_tile_rows(draw(rng)));
  EXPECT_NEAR(tile_rows_of_expert(32.0), sum / 100000, 0.3);
  EXPECT_NEAR(tile_rows_of_expert(499.0), tile_rows_of_expert(501.0), 4.0);
}

}  // namespace
}  // namespace kt::placement
