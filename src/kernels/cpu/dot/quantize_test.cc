// Rounding of activations: what it means, and the same bits on every ISA.
#include "kernels/cpu/dot/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/dot/dot.h"

namespace kt::kernels::dot {
namespace {

class Quantize : public testing::TestWithParam<CpuCaps> {
 protected:
  void SetUp() override {
    if ((detect_caps() & GetParam()) != GetParam()) GTEST_SKIP() << "this CPU lacks it";
  }
};

TEST_P(Quantize, RoundsToNearestAndSums) {
  const QuantizeFn quantize = select_quantize(GetParam());
  std::mt19937 rng(13);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<float> x(96);
    const float size = std::ldexp(1.0f, static_cast<int>(rng() % 200) - 100);
    for (float& v : x) v = normal(rng) * size;
    std::int8_t q[96], q_ref[96];
    float scale[3], sum[3], scale_ref[3], sum_ref[3];
    quantize(x.data(), 96, q, scale, sum);
    quantize_row_ref(x.data(), 96, q_ref, scale_ref, sum_ref);
    EXPECT_EQ(std::memcmp(q, q_ref, sizeof(q)), 0);
    EXPECT_EQ(std::memcmp(scale, scale_ref, sizeof(scale)), 0);
    EXPECT_EQ(std::memcmp(sum, sum_ref, sizeof(sum)), 0);
    for (int b = 0; b < 3; ++b) {
      int total = 0, peak = 0;
      for (int i = 32 * b; i < 32 * b + 32; ++i) {
        total += q[i];
        peak = std::max(peak, std::abs(static_cast<int>(q[i])));
        EXPECT_LE(std::fabs(double{x[static_cast<std::size_t>(i)]} - double{scale[b]} * q[i]),
                  0.5001 * scale[b]);
      }
      EXPECT_EQ(peak, 127);
      EXPECT_EQ(sum[b], scale[b] * static_cast<float>(total));
    }
  }
}

TEST_P(Quantize, SixteenBitsRoundToNearestAndSum) {
  const Quantize16Fn quantize = select_quantize16(GetParam());
  std::mt19937 rng(15);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<float> x(96);
    const float size = std::ldexp(1.0f, static_cast<int>(rng() % 200) - 100);
    for (float& v : x) v = normal(rng) * size;
    if (trial % 4 == 0) x[40] = std::numeric_limits<float>::infinity();
    if (trial % 4 == 1) std::fill(x.begin() + 32, x.begin() + 64, 1e-34f);
    std::int16_t q[96], q_ref[96];
    float scale[3], sum[3], scale_ref[3], sum_ref[3];
    quantize(x.data(), 96, q, scale, sum);
    quantize16_row_ref(x.data(), 96, q_ref, scale_ref, sum_ref);
    EXPECT_EQ(std::memcmp(q, q_ref, sizeof(q)), 0);
    EXPECT_EQ(std::memcmp(scale, scale_ref, sizeof(scale)), 0);
    EXPECT_EQ(std::memcmp(sum, sum_ref, sizeof(sum)), 0);
    for (int b = 0; b < 3; ++b) {
      int total = 0, peak = 0;
      const bool number = b != 1 || trial % 4 > 1;
      for (int i = 32 * b; i < 32 * b + 32; ++i) {
        const int v = q[32 * b + tile_column(i % 32)];
        total += v;
        peak = std::max(peak, std::abs(v));
        if (number) {
          EXPECT_LE(std::fabs(double{x[static_cast<std::size_t>(i)]} - double{scale[b]} * v),
                    0.51 * scale[b]);
        }
      }
      EXPECT_EQ(peak, number ? 32767 : 0);
      if (number) {
        EXPECT_EQ(sum[b], scale[b] * static_cast<float>(total));
      } else {
        EXPECT_TRUE(trial % 4 == 0 ? std::isnan(scale[b]) : scale[b] == 0.0f) << scale[b];
      }
    }
  }
}

TEST_P(Quantize, SpecialValues) {
  const QuantizeFn quantize = select_quantize(GetParam());
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float special : {0.0f, -0.0f, 1e-40f, 1e-37f, inf, -inf, nan, -nan, 3.4e38f}) {
    float x[64] = {};
    x[5] = special;
    x[40] = 1.0f;
    std::int8_t q[64];
    float scale[2], sum[2];
    quantize(x, 64, q, scale, sum);
    if (!std::isfinite(special)) {
      EXPECT_TRUE(std::isnan(scale[0]) && std::isnan(sum[0]));
      for (int i = 0; i < 32; ++i) EXPECT_EQ(q[i], 0);
    } else {
      EXPECT_EQ(q[5], special > 1.0f ? 127 : 0);
      EXPECT_EQ(scale[0], special > 1.0f ? special / 127.0f : 0.0f);
    }
    EXPECT_EQ(q[40], 127) << "the next block is not touched by " << special;
    EXPECT_EQ(scale[1], 1.0f / 127.0f);
  }
}

TEST_P(Quantize, TwiceIsOnceAndThenWhatIsLeft) {
  const QuantizeTwiceFn quantize = select_quantize_twice(GetParam());
  std::mt19937 rng(16);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 200; ++trial) {
    float x[96];
    const float size = std::ldexp(1.0f, static_cast<int>(rng() % 200) - 100);
    for (float& v : x) v = normal(rng) * size;
    if (trial % 4 == 0) x[40] = std::numeric_limits<float>::infinity();
    if (trial % 4 == 1) std::fill(x + 32, x + 64, 1e-37f);
    struct {
      std::int8_t q[2][96];
      float scale[2][3], sum[2][3];
    } got, want;
    quantize(x, 96, {got.q[0], got.scale[0], got.sum[0]}, {got.q[1], got.scale[1], got.sum[1]});
    quantize_twice_ref(x, 96, {want.q[0], want.scale[0], want.sum[0]},
                       {want.q[1], want.scale[1], want.sum[1]});
    EXPECT_EQ(std::memcmp(&got, &want, sizeof got), 0);
    for (int i = 0; i < 96; ++i) {
      const int b = i / 32;
      if (b == 1 && trial % 4 < 2) continue;
      const double value =
          double{got.scale[0][b]} * got.q[0][i] + double{got.scale[1][b]} * got.q[1][i];
      EXPECT_LE(std::fabs(value - double{x[i]}), 0.51 / 127 * got.scale[0][b]);
    }
  }
}

TEST_P(Quantize, TiesGoToEven) {
  const QuantizeFn quantize = select_quantize(GetParam());
  float x[32] = {};
  x[0] = 127.0f;
  x[1] = 0.5f;
  x[2] = 1.5f;
  x[3] = -2.5f;
  std::int8_t q[32];
  float scale, sum;
  quantize(x, 32, q, &scale, &sum);
  EXPECT_EQ(q[1], 0);
  EXPECT_EQ(q[2], 2);
  EXPECT_EQ(q[3], -2);
  EXPECT_EQ(sum, 127.0f);
}

TEST(ToTiles, SameBitsOnEveryIsa) {
  const ToTilesFn to_tiles = select_to_tiles(detect_caps());
  std::mt19937 rng(14);
  for (int trial = 0; trial < 1000; ++trial) {
    float x[64];
    for (float& v : x) v = std::bit_cast<float>(static_cast<std::uint32_t>(rng()));
    std::uint16_t got[2 * kTileValues] = {}, want[2 * kTileValues] = {};
    to_tiles(x, 64, got);
    to_tiles_ref(x, 64, want);
    ASSERT_EQ(std::memcmp(got, want, sizeof(got)), 0);
  }
}

TEST(ToI8Tiles, RoundsWithOneScalePerRowAndSameBitsOnEveryIsa) {
  const ToI8TilesFn to_tiles = select_to_i8_tiles(detect_caps());
  std::mt19937 rng(17);
  std::normal_distribution<float> normal;
  const float inf = std::numeric_limits<float>::infinity();
  const float special[] = {0.0f, 1e-34f, 3.3e38f, inf, std::numeric_limits<float>::quiet_NaN()};
  for (int trial = 0; trial < 300; ++trial) {
    const float size = std::ldexp(1.0f, static_cast<int>(rng() % 180) - 90);
    float x[128];
    for (float& v : x) v = trial < 10 ? 0.0f : normal(rng) * size;
    if (trial < 10) x[70] = special[trial / 2];
    std::vector<std::int8_t> got(kTileRows * 128), want(kTileRows * 128);
    float scale = 0, want_scale = 0;
    to_tiles(x, 128, got.data(), &scale);
    to_i8_tiles_ref(x, 128, want.data(), &want_scale);
    ASSERT_EQ(got, want);
    ASSERT_EQ(std::memcmp(&scale, &want_scale, 4), 0);
    for (std::size_t i = 0; trial >= 10 && i < 128; ++i) {
      const double value = double{scale} * got[i / 64 * kI8TileBytes + i % 64];
      ASSERT_LE(std::fabs(value - double{x[i]}), 0.5001 * double{scale});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dot, Quantize, testing::Values(CpuCaps{0}, CpuCaps{kAvx2}),
                         [](const auto& caps) { return caps.param == 0 ? "ref" : "avx2"; });

}  // namespace
}  // namespace kt::kernels::dot
