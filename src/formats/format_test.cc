#include "formats/format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/test_random.h"
#include "formats/basic_quants.h"
#include "formats/checkpoint_quants.h"
#include "formats/fp4_quants.h"
#include "formats/iq4_quants.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/ternary_quants.h"

namespace kt::formats {
namespace {

constexpr Format kAll[] = {
#define KT_FORMAT(id, name, ggml_type, block_len, block_bytes, decode, encode) Format::id,
#include "formats/formats.inc"
#undef KT_FORMAT
};

/// Relative RMS error on Gaussian values that an encoder must stay under.
float rms_limit(Format format) {
  switch (format) {
    case Format::kF32: return 0.0f;
    case Format::kF16: return 0.0003f;
    case Format::kBF16: return 0.002f;
    case Format::kQ8_0:
    case Format::kQ8_1: return 0.006f;
    case Format::kQ8_K: return 0.0075f;
    case Format::kQ6_K: return 0.018f;
    case Format::kQ5_K: return 0.0375f;
    case Format::kQ5_0: return 0.045f;
    case Format::kQ5_1: return 0.041f;
    case Format::kQ4_K: return 0.075f;
    case Format::kQ4_0: return 0.09f;
    case Format::kQ4_1: return 0.083f;
    case Format::kIQ4_NL: return 0.078f;
    case Format::kIQ4_XS: return 0.078f;
    case Format::kQ3_K: return 0.153f;
    case Format::kQ2_K: return 0.28f;
    case Format::kIQ3_S: return 0.14f;
    case Format::kIQ3_XXS: return 0.19f;
    case Format::kIQ2_S: return 0.255f;
    case Format::kIQ2_XS: return 0.305f;
    case Format::kIQ2_XXS: return 0.35f;
    case Format::kIQ1_M: return 0.44f;
    case Format::kIQ1_S: return 0.475f;
    case Format::kMXFP4: return 0.12f;
    case Format::kNVFP4: return 0.092f;
    case Format::kQ1_0: return 0.62f;
    case Format::kF8_E4M3: return 0.03f;
    case Format::kF8_E4M3_B128: return 0.027f;
    case Format::kI4_32: return 0.086f;
    case Format::kI4_64: return 0.096f;
    case Format::kI4_128: return 0.107f;
    // Made for ternary weights: the scale is the largest magnitude, so most Gaussian values become
    // 0.
    case Format::kTQ1_0:
    case Format::kTQ2_0: return 0.95f;
  }
  return 0.0f;
}

/// Encodes and decodes one row in buffers of exactly the row's size.
std::vector<float> round_trip(Format format, const std::vector<float>& x,
                              const float* importance = nullptr) {
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<std::byte> blocks(row_bytes(format, n), std::byte{0xa5});
  std::vector<float> back(x.size(), -12345.0f);
  traits(format).encode(x.data(), importance, blocks.data(), n);
  traits(format).decode(blocks.data(), back.data(), n);
  return back;
}

double weighted_error(const std::vector<float>& x, const std::vector<float>& y,
                      const std::vector<float>& w) {
  double sum = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = static_cast<double>(x[i]) - y[i];
    sum += w[i] * e * e;
  }
  return sum;
}

double relative_rms(const std::vector<float>& x, const std::vector<float>& y) {
  const std::vector<float> ones(x.size(), 1.0f), zeros(x.size(), 0.0f);
  return std::sqrt(weighted_error(x, y, ones) / weighted_error(x, zeros, ones));
}

class FormatTest : public testing::TestWithParam<Format> {};

std::string test_name(const testing::TestParamInfo<Format>& info) {
  return std::string(traits(info.param).name);
}
INSTANTIATE_TEST_SUITE_P(All, FormatTest, testing::ValuesIn(kAll), test_name);

TEST_P(FormatTest, TraitsAreConsistent) {
  const FormatTraits& t = traits(GetParam());
  EXPECT_EQ(t.format, GetParam());
  EXPECT_GT(t.block_len, 0);
  EXPECT_GT(t.block_bytes, 0u);
  ASSERT_NE(t.decode, nullptr);
  EXPECT_EQ(row_bytes(t.format, 3 * t.block_len), 3 * t.block_bytes);
  EXPECT_EQ(row_bytes(t.format, 0), 0u);
  EXPECT_EQ(from_name(t.name), t.format);
  if (t.ggml_type >= 0) {
    EXPECT_EQ(from_ggml_type(static_cast<std::uint32_t>(t.ggml_type)), t.format);
  }
}

TEST_P(FormatTest, GaussianErrorIsBounded) {
  const std::vector<float> x = gaussian(4096, 1);
  const double error = relative_rms(x, round_trip(GetParam(), x));
  EXPECT_LE(error, rms_limit(GetParam()));
}

TEST_P(FormatTest, ErrorIsTheSameAtOtherMagnitudes) {
  // Down to where fp16 sub-scales become subnormal the relative error must not grow much.
  for (const float sigma : {0.02f, 30.0f}) {
    const std::vector<float> x = gaussian(2048, 2, sigma);
    const double error = relative_rms(x, round_trip(GetParam(), x));
    EXPECT_LE(error, rms_limit(GetParam()) * 1.08) << "sigma " << sigma;
  }
}

TEST_P(FormatTest, ZeroRowStaysZero) {
  const std::vector<float> x(1024, 0.0f);
  for (float v : round_trip(GetParam(), x)) ASSERT_EQ(v, 0.0f);
}

TEST_P(FormatTest, EncodingIsDeterministic) {
  const std::vector<float> x = gaussian(1024, 3);
  std::vector<std::byte> a(row_bytes(GetParam(), 1024), std::byte{0}), b(a.size(), std::byte{255});
  traits(GetParam()).encode(x.data(), nullptr, a.data(), 1024);
  traits(GetParam()).encode(x.data(), nullptr, b.data(), 1024);
  EXPECT_EQ(a, b);  // also: every byte is written
}

TEST_P(FormatTest, BlocksAreIndependent) {
  // Encoding a row equals encoding its blocks one by one: rows can be sliced and sharded.
  const FormatTraits& t = traits(GetParam());
  const std::vector<float> x = gaussian(4 * t.block_len, 4);
  const std::vector<float> importance = [&] {
    std::vector<float> w = gaussian(4 * t.block_len, 5);
    for (float& v : w) v = v * v;
    return w;
  }();
  std::vector<std::byte> row(4 * t.block_bytes), parts(row.size());
  t.encode(x.data(), importance.data(), row.data(), 4 * t.block_len);
  for (int i = 0; i < 4; ++i) {
    t.encode(x.data() + i * t.block_len, importance.data() + i * t.block_len,
             parts.data() + static_cast<std::size_t>(i) * t.block_bytes, t.block_len);
  }
  EXPECT_EQ(row, parts);
}

TEST_P(FormatTest, ExtremeValuesGiveFiniteResults) {
  if (GetParam() == Format::kF32 || GetParam() == Format::kF16 || GetParam() == Format::kBF16) {
    GTEST_SKIP() << "floating-point formats keep infinities";
  }
  if (GetParam() == Format::kF8_E4M3) GTEST_SKIP() << "it keeps NaN";
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  const float specials[] = {kInf,   -kInf,  kNan,  kMax,     -kMax, kTiny,
                            -kTiny, 1e-20f, 1e-7f, 65504.0f, -1e9f};
  for (std::size_t s = 0; s < std::size(specials); ++s) {
    for (const bool alone : {false, true}) {
      std::vector<float> x = alone ? std::vector<float>(256, specials[s]) : gaussian(256, 6);
      std::vector<float> importance(256, 1.0f);
      x[17] = specials[s];
      x[200] = specials[(s + 1) % std::size(specials)];
      importance[3] = specials[s];
      importance[40] = specials[(s + 3) % std::size(specials)];
      for (const float* w :
           {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
        for (float v : round_trip(GetParam(), x, w)) ASSERT_TRUE(std::isfinite(v)) << specials[s];
      }
    }
  }
}

TEST_P(FormatTest, AnyBytesDecode) {
  // Decoders have no invalid input; run under sanitizers this proves table indices stay in range.
  std::mt19937 bits(7);
  std::vector<std::byte> blocks(row_bytes(GetParam(), 256 * 64));
  for (std::byte& b : blocks) b = static_cast<std::byte>(bits());
  std::vector<float> out(256 * 64);
  traits(GetParam()).decode(blocks.data(), out.data(), 256 * 64);
  std::vector<std::byte> shifted(blocks.size() +
                                 1);  // an address that no member type is aligned to
  std::memcpy(shifted.data() + 1, blocks.data(), blocks.size());
  std::vector<float> again(out.size());
  traits(GetParam()).decode(shifted.data() + 1, again.data(), 256 * 64);
  EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
}

TEST_P(FormatTest, ReencodingDecodedValuesLosesLittle) {
  // Values that lie on the format's lattice must come back nearly as they were.
  const std::vector<float> once = round_trip(GetParam(), gaussian(2048, 8));
  EXPECT_LE(relative_rms(once, round_trip(GetParam(), once)), 0.6 * rms_limit(GetParam()) + 1e-7);
}

class WeightedFormatTest : public testing::TestWithParam<Format> {};
INSTANTIATE_TEST_SUITE_P(Weighted, WeightedFormatTest,
                         testing::Values(Format::kQ2_K, Format::kQ3_K, Format::kQ4_K, Format::kQ5_K,
                                         Format::kQ6_K, Format::kIQ4_NL, Format::kIQ4_XS,
                                         Format::kIQ3_S, Format::kIQ3_XXS, Format::kIQ2_S,
                                         Format::kIQ2_XS, Format::kIQ2_XXS, Format::kIQ1_M,
                                         Format::kIQ1_S, Format::kMXFP4, Format::kNVFP4,
                                         Format::kQ1_0),
                         test_name);

TEST_P(WeightedFormatTest, ImportanceLowersTheWeightedError) {
  const std::vector<float> x = gaussian(4096, 9);
  std::vector<float> w = gaussian(4096, 10);
  for (float& v : w) v = std::exp(2.0f * v);
  const double without = weighted_error(x, round_trip(GetParam(), x), w);
  const double with = weighted_error(x, round_trip(GetParam(), x, w.data()), w);
  EXPECT_LT(with, 0.97 * without);
}

TEST_P(WeightedFormatTest, OnlyTheRatioOfWeightsCounts) {
  const std::vector<float> x = gaussian(512, 11);
  std::vector<float> same(512, 0.25f), zero(512, 0.0f);
  EXPECT_EQ(round_trip(GetParam(), x, same.data()), round_trip(GetParam(), x));
  EXPECT_EQ(round_trip(GetParam(), x, zero.data()), round_trip(GetParam(), x));
}

TEST(Format, LookUps) {
  EXPECT_EQ(from_name("q4_k"), Format::kQ4_K);
  EXPECT_EQ(from_name("Iq2_XxS"), Format::kIQ2_XXS);
  EXPECT_EQ(from_name("q4_k "), std::nullopt);
  EXPECT_EQ(from_name(""), std::nullopt);
  EXPECT_EQ(from_ggml_type(12), Format::kQ4_K);
  EXPECT_EQ(from_ggml_type(4), std::nullopt);  // removed from GGUF long ago
  EXPECT_EQ(from_ggml_type(0xffffffffu), std::nullopt);
  for (Format a : kAll) {
    for (Format b : kAll) {
      if (a == b) continue;
      EXPECT_NE(traits(a).name, traits(b).name);
      const bool both_unnumbered = traits(a).ggml_type < 0 && traits(b).ggml_type < 0;
      EXPECT_TRUE(both_unnumbered || traits(a).ggml_type != traits(b).ggml_type);
    }
  }
}

TEST(Format, BlockStructsHaveTheListedSizes) {
  EXPECT_EQ(traits(Format::kQ4_0).block_bytes, sizeof(BlockQ4_0));
  EXPECT_EQ(traits(Format::kQ4_1).block_bytes, sizeof(BlockQ4_1));
  EXPECT_EQ(traits(Format::kQ5_0).block_bytes, sizeof(BlockQ5_0));
  EXPECT_EQ(traits(Format::kQ5_1).block_bytes, sizeof(BlockQ5_1));
  EXPECT_EQ(traits(Format::kQ8_0).block_bytes, sizeof(BlockQ8_0));
  EXPECT_EQ(traits(Format::kQ8_1).block_bytes, sizeof(BlockQ8_1));
  EXPECT_EQ(traits(Format::kQ2_K).block_bytes, sizeof(BlockQ2_K));
  EXPECT_EQ(traits(Format::kQ3_K).block_bytes, sizeof(BlockQ3_K));
  EXPECT_EQ(traits(Format::kQ4_K).block_bytes, sizeof(BlockQ4_K));
  EXPECT_EQ(traits(Format::kQ5_K).block_bytes, sizeof(BlockQ5_K));
  EXPECT_EQ(traits(Format::kQ6_K).block_bytes, sizeof(BlockQ6_K));
  EXPECT_EQ(traits(Format::kQ8_K).block_bytes, sizeof(BlockQ8_K));
  EXPECT_EQ(traits(Format::kIQ1_S).block_bytes, sizeof(BlockIQ1_S));
  EXPECT_EQ(traits(Format::kIQ1_M).block_bytes, sizeof(BlockIQ1_M));
  EXPECT_EQ(traits(Format::kIQ2_XXS).block_bytes, sizeof(BlockIQ2_XXS));
  EXPECT_EQ(traits(Format::kIQ2_XS).block_bytes, sizeof(BlockIQ2_XS));
  EXPECT_EQ(traits(Format::kIQ2_S).block_bytes, sizeof(BlockIQ2_S));
  EXPECT_EQ(traits(Format::kIQ3_XXS).block_bytes, sizeof(BlockIQ3_XXS));
  EXPECT_EQ(traits(Format::kIQ3_S).block_bytes, sizeof(BlockIQ3_S));
  EXPECT_EQ(traits(Format::kIQ4_NL).block_bytes, sizeof(BlockIQ4_NL));
  EXPECT_EQ(traits(Format::kIQ4_XS).block_bytes, sizeof(BlockIQ4_XS));
  EXPECT_EQ(traits(Format::kTQ1_0).block_bytes, sizeof(BlockTQ1_0));
  EXPECT_EQ(traits(Format::kTQ2_0).block_bytes, sizeof(BlockTQ2_0));
  EXPECT_EQ(traits(Format::kQ1_0).block_bytes, sizeof(BlockQ1_0));
  EXPECT_EQ(traits(Format::kMXFP4).block_bytes, sizeof(BlockMXFP4));
  EXPECT_EQ(traits(Format::kNVFP4).block_bytes, sizeof(BlockNVFP4));
  EXPECT_EQ(traits(Format::kF8_E4M3_B128).block_bytes, sizeof(BlockF8_E4M3_B128));
  EXPECT_EQ(traits(Format::kI4_32).block_bytes, sizeof(BlockI4<32>));
  EXPECT_EQ(traits(Format::kI4_64).block_bytes, sizeof(BlockI4<64>));
  EXPECT_EQ(traits(Format::kI4_128).block_bytes, sizeof(BlockI4<128>));
}

TEST(KQuants, ScalePackingIsInvertible) {
  std::mt19937 bits(12);
  for (int round = 0; round < 100; ++round) {
    std::uint8_t sc[8], m[8], packed[12], sc2[8], m2[8];
    std::int8_t s3[16], s3_back[16];
    for (int j = 0; j < 8; ++j) {
      sc[j] = static_cast<std::uint8_t>(bits() % 64);
      m[j] = static_cast<std::uint8_t>(bits() % 64);
    }
    pack_scales_k4(sc, m, packed);
    unpack_scales_k4(packed, sc2, m2);
    EXPECT_EQ(std::memcmp(sc, sc2, 8), 0);
    EXPECT_EQ(std::memcmp(m, m2, 8), 0);
    for (std::int8_t& s : s3) s = static_cast<std::int8_t>(static_cast<int>(bits() % 64) - 32);
    pack_scales_q3_k(s3, packed);
    unpack_scales_q3_k(packed, s3_back);
    EXPECT_EQ(std::memcmp(s3, s3_back, 16), 0);
  }
}

TEST(BasicQuants, KnownBlock) {
  // -8 has the largest magnitude, so d = 1 and every integer in [-8, 7] is exact.
  std::vector<float> x(32);
  for (int j = 0; j < 32; ++j) x[static_cast<std::size_t>(j)] = static_cast<float>(j % 16 - 8);
  EXPECT_EQ(round_trip(Format::kQ4_0, x), x);
  BlockQ4_0 block;
  encode_q4_0(x.data(), nullptr, &block, 32);
  EXPECT_EQ(block.d, 0x3c00);
  EXPECT_EQ(block.qs[3], 0x33);
}

TEST(Fp4Quants, RepresentableValuesAreLossless) {
  std::mt19937 bits(13);
  std::vector<float> x(64);
  for (float& v : x) v = 0.25f * static_cast<float>(kFp4Doubled[bits() % 16]);
  x[0] = 3.0f;  // both block maxima present, so the scale is unambiguous
  x[32] = -3.0f;
  EXPECT_EQ(round_trip(Format::kMXFP4, x), x);
  for (int s = 0; s < 4; ++s) x[static_cast<std::size_t>(16 * s)] = 3.0f;
  EXPECT_EQ(round_trip(Format::kNVFP4, x), x);
  EXPECT_EQ(mxfp4_scale(128), 1.0f);
  EXPECT_EQ(mxfp4_scale(0), 0x1p-128f);
  EXPECT_EQ(mxfp4_scale(1), 0x1p-127f);
  EXPECT_EQ(nvfp4_scale(0x38), 0.5f);
  EXPECT_EQ(nvfp4_scale(0x7f), 0.0f);
}

TEST(CheckpointQuants, EveryFp8CodeSurvives) {
  BlockF8_E4M3_B128 in[2], out[2];
  for (int j = 0; j < 256; ++j) {
    const bool nan = (j & 0x7f) == 0x7f;
    in[j / 128].q[j % 128] = static_cast<std::uint8_t>(nan ? 0x7e : j);
  }
  in[0].scale = in[1].scale = 0.5f;
  in[1].q[0] = 0;  // -0 has no separate code after encoding
  std::vector<float> x(256);
  decode_f8_e4m3_b128(in, x.data(), 256);
  encode_f8_e4m3_b128(x.data(), nullptr, out, 256);
  EXPECT_EQ(std::memcmp(in, out, sizeof(in)), 0);
}

TEST(CheckpointQuants, Int4NibbleOrderAndFractionalZero) {
  BlockI4<32> block{2.0f, 7.5f, {}};
  block.q[1] = 0x9a;  // value 1: 10, value 17: 9
  std::vector<float> x(32);
  decode_i4_32(&block, x.data(), 32);
  EXPECT_EQ(x[1], 5.0f);
  EXPECT_EQ(x[17], 3.0f);
  EXPECT_EQ(x[0], -15.0f);
}

TEST(TernaryQuants, TernaryValuesAreLossless) {
  std::mt19937 bits(14);
  std::vector<float> x(512);
  for (float& v : x) v = 0.75f * static_cast<float>(static_cast<int>(bits() % 3) - 1);
  EXPECT_EQ(round_trip(Format::kTQ1_0, x), x);
  EXPECT_EQ(round_trip(Format::kTQ2_0, x), x);
}

TEST(KQuants, AllPositiveAndAllNegativeBlocks) {
  for (const float offset : {5.0f, -5.0f}) {
    std::vector<float> x = gaussian(1024, 15, 0.1f);
    for (float& v : x) v += offset;
    for (Format f : {Format::kQ4_K, Format::kQ5_K, Format::kQ6_K}) {
      EXPECT_LE(relative_rms(x, round_trip(f, x)), 0.02) << traits(f).name << " " << offset;
    }
  }
}

}  // namespace
}  // namespace kt::formats
