#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/half.h"
#include "base/topology.h"

namespace kt {
namespace {

TEST(Half, Fp16RoundTripsEveryPattern) {
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const float f = fp16_to_f32(static_cast<std::uint16_t>(h));
    if (std::isnan(f)) continue;
    EXPECT_EQ(f32_to_fp16(f), h);
  }
}

TEST(Half, Fp16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_fp16(1.0f + 0x1p-11f), 0x3c00);      // tie, to even
  EXPECT_EQ(f32_to_fp16(1.0f + 3 * 0x1p-11f), 0x3c02);  // tie, to even upwards
  EXPECT_EQ(f32_to_fp16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_fp16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_fp16(-0x1p-25f), 0x8000);  // tie with zero, to even
  EXPECT_EQ(f32_to_fp16(0x1.8p-25f), 0x0001);
  EXPECT_TRUE(std::isnan(fp16_to_f32(f32_to_fp16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Half, Bf16RoundTripsAndRounds) {
  for (std::uint32_t b = 0; b < 65536; ++b) {
    const float f = bf16_to_f32(static_cast<std::uint16_t>(b));
    if (!std::isnan(f)) {
      EXPECT_EQ(f32_to_bf16(f), b);
    }
  }
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
}

TEST(Half, Fp8) {
  EXPECT_EQ(fp8_e4m3_to_f32(0x7e), 448.0f);
  EXPECT_EQ(fp8_e4m3_to_f32(0x01), 0x1p-9f);
  EXPECT_EQ(fp8_e4m3_to_f32(0xb8), -1.0f);
  EXPECT_TRUE(std::isnan(fp8_e4m3_to_f32(0xff)));
  for (int code = 0; code < 256; ++code) {
    const float v = fp8_e4m3_to_f32(static_cast<std::uint8_t>(code));
    EXPECT_EQ(f32_to_fp8_e4m3(v), code);
    if ((code & 0x7f) >= 0x7e) continue;
    // Between neighbours: to the nearer, from the middle to the even one.
    const float next = fp8_e4m3_to_f32(static_cast<std::uint8_t>(code + 1)),
                middle = (v + next) / 2;
    EXPECT_EQ(f32_to_fp8_e4m3(middle), code + code % 2);
    EXPECT_EQ(f32_to_fp8_e4m3(std::nextafter(middle, v)), code);
    EXPECT_EQ(f32_to_fp8_e4m3(std::nextafter(middle, next)), code + 1);
  }
  EXPECT_EQ(f32_to_fp8_e4m3(1e9f), 0x7e);
  EXPECT_EQ(f32_to_fp8_e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_EQ(fp8_e5m2_to_f32(0x3c), 1.0f);
  EXPECT_EQ(e8m0_to_f32(127), 1.0f);
  EXPECT_EQ(e8m0_to_f32(0), 0x1p-127f);
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(ByteReader, RefusesToReadPastTheEnd) {
  const std::byte bytes[6] = {};
  ByteReader reader(bytes, "x.bin");
  EXPECT_EQ(reader.read<std::uint32_t>("magic"), 0u);
  try {
    reader.read<std::uint32_t>("version");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadFile);
    EXPECT_NE(std::string(e.what()).find("x.bin"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("version"), std::string::npos);
  }
  EXPECT_THROW(reader.take(~0ull, "body"), Error);
}

TEST(CheckedMultiply, SeesOverflowAndNegatives) {
  std::int64_t p = 0;
  EXPECT_TRUE(checked_multiply(1 << 20, 1 << 20, &p));
  EXPECT_EQ(p, std::int64_t{1} << 40);
  EXPECT_FALSE(checked_multiply(std::int64_t{1} << 40, std::int64_t{1} << 40, &p));
  EXPECT_FALSE(checked_multiply(-1, 2, &p));
}

TEST(Caps, LimitByName) {
  const CpuCaps all = kAvx2 | kAvx512 | kAvx512Vnni | kAvx512Bf16 | kAmx;
  EXPECT_EQ(limit_caps(all, "ref"), 0u);
  EXPECT_EQ(limit_caps(all, "avx2"), kAvx2);
  EXPECT_EQ(limit_caps(all, "avx512"), all & ~kAmx);
  EXPECT_THROW(limit_caps(kAvx2, "amx"), Error);
  EXPECT_THROW(limit_caps(all, "sse9"), Error);
}

TEST(ErrorCodes, EachHasItsOwnExitStatus) {
  EXPECT_EQ(exit_status(ErrorCode::kBadFile), 4);
  EXPECT_EQ(exit_status(ErrorCode::kTooLong), 8);
  EXPECT_EQ(error_code_name(ErrorCode::kNoMemory), "no_memory");
}

TEST(Topology, FindsThisMachine) {
  const Topology t = detect_topology();
  EXPECT_GE(t.cores.size(), 1u);
  EXPECT_GE(t.n_logical, static_cast<int>(t.cores.size()));
  EXPECT_GT(t.memory_total, t.memory_available / 2);
  EXPECT_GE(default_threads(t), 1);
}

}  // namespace
}  // namespace kt
