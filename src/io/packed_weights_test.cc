#include "io/packed_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "io/test_files.h"

namespace kt::io {
namespace {

using formats::Format;

template <class T>
RawArray array_of(SafeType type, const std::vector<T>& values) {
  return {type, std::as_bytes(std::span(values))};
}

template <class Weight>
std::vector<float> decode(const Weight& weight, std::int64_t row, std::int64_t n_rows) {
  const Format format = row_format(weight);
  std::vector<std::byte> rows(formats::row_bytes(format, weight.k) *
                              static_cast<std::size_t>(n_rows));
  read_rows(weight, row, n_rows, rows.data());
  std::vector<float> out(static_cast<std::size_t>(n_rows * weight.k));
  formats::traits(format).decode(rows.data(), out.data(), n_rows * weight.k);
  return out;
}

// Random codes, zero points and scales of an [n, k] weight, and the values they mean.
struct Reference {
  Reference(std::int64_t n_rows, std::int64_t n_cols, std::int64_t group_size, int code_bits)
      : n(n_rows), k(n_cols), group(group_size), bits(code_bits) {
    std::mt19937 random(11);
    const std::int64_t n_groups = (k + group - 1) / group;
    for (std::int64_t i = 0; i < n * k; ++i) codes.push_back(random() % (1u << bits));
    for (std::int64_t i = 0; i < n * n_groups; ++i) {
      zeros.push_back(1 + random() % ((1u << bits) - 1));
      scales.push_back(f32_to_fp16(0.001f * static_cast<float>(1 + random() % 100)));
    }
    for (std::int64_t c = 0; c < k; ++c) group_of.push_back(static_cast<std::uint32_t>(c / group));
  }
  std::int64_t n_groups() const { return (k + group - 1) / group; }
  float value(std::int64_t r, std::int64_t c) const {
    const auto at =
        static_cast<std::size_t>(r * n_groups() + group_of[static_cast<std::size_t>(c)]);
    const auto code = codes[static_cast<std::size_t>(r * k + c)];
    return (static_cast<float>(code) - static_cast<float>(zeros[at])) * fp16_to_f32(scales[at]);
  }
  /// 8 (4) codes a word along rows' columns or along rows, in slot order `order`.
  template <class Get>
  std::vector<std::uint32_t> pack(std::int64_t outer, std::int64_t inner, Get get,
                                  const std::vector<int>& order = {}) const {
    const int per_word = 32 / bits;
    std::vector<std::uint32_t> words(
        static_cast<std::size_t>(outer * ((inner + per_word - 1) / per_word)), 0);
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t i = 0; i < inner; ++i) {
        const int slot = static_cast<int>(i % per_word);
        int position = slot;
        for (int p = 0; p < static_cast<int>(order.size()); ++p) {
          if (order[static_cast<std::size_t>(p)] == slot) position = p;
        }
        const auto word =
            static_cast<std::size_t>(o * ((inner + per_word - 1) / per_word) + i / per_word);
        words[word] |= get(o, i) << (position * bits);
      }
    }
    return words;
  }
  std::uint32_t code(std::int64_t r, std::int64_t c) const {
    return codes[static_cast<std::size_t>(r * k + c)];
  }
  std::uint32_t zero(std::int64_t r, std::int64_t g) const {
    return zeros[static_cast<std::size_t>(r * n_groups() + g)];
  }
  std::vector<std::uint16_t> scales_by_group() const {
    std::vector<std::uint16_t> out;
    for (std::int64_t g = 0; g < n_groups(); ++g) {
      for (std::int64_t r = 0; r < n; ++r)
        out.push_back(scales[static_cast<std::size_t>(r * n_groups() + g)]);
    }
    return out;
  }
  void expect(const std::vector<float>& got, std::int64_t row, std::int64_t n_rows) const {
    for (std::int64_t r = 0; r < n_rows; ++r) {
      for (std::int64_t c = 0; c < k; ++c) {
        ASSERT_EQ(got[static_cast<std::size_t>(r * k + c)], value(row + r, c))
            << row + r << ", " << c;
      }
    }
  }

  std::int64_t n, k, group;
  int bits;
  std::vector<std::uint32_t> codes, zeros, group_of;
  std::vector<std::uint16_t> scales;
};

/// [n, k] with codes packed along k by row of the transposed matrix, as GPTQ does.
struct Gptq {
  explicit Gptq(const Reference& ref) {
    const int per_word = 32 / ref.bits;
    const auto by_row = ref.pack(ref.n, ref.k, [&](auto r, auto c) { return ref.code(r, c); });
    const std::int64_t words = ref.k / per_word;
    codes.resize(by_row.size());
    for (std::int64_t r = 0; r < ref.n; ++r) {
      for (std::int64_t w = 0; w < words; ++w) {
        codes[static_cast<std::size_t>(w * ref.n + r)] =
            by_row[static_cast<std::size_t>(r * words + w)];
      }
    }
    zeros = ref.pack(ref.n_groups(), ref.n, [&](auto g, auto r) { return ref.zero(r, g) - 1; });
    scales = ref.scales_by_group();
    weight = {"w",
              Int4Packing::kGptq,
              ref.bits,
              ref.n,
              ref.k,
              ref.group,
              array_of(SafeType::kI32, codes),
              array_of(SafeType::kF16, scales),
              array_of(SafeType::kI32, zeros),
              8.0f,
              1.0f,
              array_of(SafeType::kI32, ref.group_of),
              false};
  }
  std::vector<std::uint32_t> codes, zeros;
  std::vector<std::uint16_t> scales;
  IntWeight weight;
};

TEST(PackedWeights, Gptq) {
  for (const std::int64_t group : {32, 64, 128, 256}) {
    const Reference ref(24, 256, group, 4);
    const Gptq gptq(ref);
    check_sizes(gptq.weight, "f");
    EXPECT_FALSE(is_scattered(gptq.weight, "f"));
    EXPECT_EQ(row_format(gptq.weight), group == 32   ? Format::kI4_32
                                       : group == 64 ? Format::kI4_64
                                                     : Format::kI4_128);
    ref.expect(decode(gptq.weight, 0, 24), 0, 24);
    ref.expect(decode(gptq.weight, 5, 18), 5, 18);
  }
}

TEST(PackedWeights, GptqWithScatteredGroupsOrEightBitsIsExactToo) {
  Reference ref(8, 128, 32, 4);
  for (std::size_t c = 0; c < ref.group_of.size(); ++c)
    ref.group_of[c] = static_cast<std::uint32_t>(c * 7 % 4);
  Gptq gptq(ref);
  EXPECT_TRUE(is_scattered(gptq.weight, "f"));
  gptq.weight.scattered = true;
  EXPECT_EQ(row_format(gptq.weight), Format::kF32);
  ref.expect(decode(gptq.weight, 0, 8), 0, 8);
  const Reference wide(8, 64, 32, 8);
  const Gptq eight(wide);
  check_sizes(eight.weight, "f");
  EXPECT_EQ(row_format(eight.weight), Format::kF32);
  wide.expect(decode(eight.weight, 3, 5), 3, 5);
  ref.group_of[3] = 4;
  testing::message_of([&] { is_scattered(Gptq(ref).weight, "f"); }, ErrorCode::kBadFile);
}

TEST(PackedWeights, Awq) {
  const Reference ref(16, 128, 64, 4);
  const std::vector<int> order{0, 2, 4, 6, 1, 3, 5, 7};
  const auto codes = ref.pack(ref.k, ref.n, [&](auto c, auto r) { return ref.code(r, c); }, order);
  const auto zeros =
      ref.pack(ref.n_groups(), ref.n, [&](auto g, auto r) { return ref.zero(r, g); }, order);
  const auto scales = ref.scales_by_group();
  const IntWeight weight{"w",
                         Int4Packing::kAwq,
                         4,
                         ref.n,
                         ref.k,
                         ref.group,
                         array_of(SafeType::kI32, codes),
                         array_of(SafeType::kF16, scales),
                         array_of(SafeType::kI32, zeros)};
  check_sizes(weight, "f");
  EXPECT_EQ(row_format(weight), Format::kI4_64);
  ref.expect(decode(weight, 0, 16), 0, 16);
  ref.expect(decode(weight, 3, 11), 3, 11);
}

TEST(PackedWeights, CompressedTensors) {
  const Reference ref(10, 96, 32, 4);
  const auto codes = ref.pack(ref.n, ref.k, [&](auto r, auto c) { return ref.code(r, c); });
  const auto zeros = [&] {  // packed along rows: [⌈n/8⌉, n_groups]
    std::vector<std::uint32_t> words(static_cast<std::size_t>(2 * ref.n_groups()), 0);
    for (std::int64_t r = 0; r < ref.n; ++r) {
      for (std::int64_t g = 0; g < ref.n_groups(); ++g) {
        words[static_cast<std::size_t>(r / 8 * ref.n_groups() + g)] |= ref.zero(r, g)
                                                                       << (4 * (r % 8));
      }
    }
    return words;
  }();
  IntWeight weight{"w",
                   Int4Packing::kRows,
                   4,
                   ref.n,
                   ref.k,
                   ref.group,
                   array_of(SafeType::kI32, codes),
                   array_of(SafeType::kF16, ref.scales),
                   array_of(SafeType::kI32, zeros)};
  check_sizes(weight, "f");
  EXPECT_EQ(row_format(weight), Format::kI4_32);
  ref.expect(decode(weight, 0, 10), 0, 10);
  weight.zeros = {};
  const auto symmetric = decode(weight, 2, 1);
  EXPECT_EQ(symmetric[1], (static_cast<float>(ref.code(2, 1)) - 8.0f) * fp16_to_f32(ref.scales[6]));
  weight.group = 48;  // no block length divides it
  weight.scales.bytes = weight.scales.bytes.first(10 * 2 * 2);
  check_sizes(weight, "f");
  EXPECT_EQ(row_format(weight), Format::kF32);
}

TEST(PackedWeights, BlockFp8) {
  for (const std::int64_t k : {256, 200}) {
    const std::int64_t n = 130;
    std::mt19937 random(5);
    std::vector<std::uint8_t> codes;
    for (std::int64_t i = 0; i < n * k; ++i)
      codes.push_back(static_cast<std::uint8_t>(random() % 0x7f));
    const std::vector<float> scales{0.5f, 2.0f, 0.25f, 3.0f};
    const Fp8Weight weight{
        n, k, std::as_bytes(std::span(codes)), array_of(SafeType::kF32, scales), 128, 128};
    check_sizes(weight, "w", "f");
    EXPECT_EQ(row_format(weight), k == 256 ? Format::kF8_E4M3_B128 : Format::kF32);
    const auto got = decode(weight, 127, 3);
    for (std::int64_t r = 0; r < 3; ++r) {
      for (std::int64_t c = 0; c < k; ++c) {
        const float scale = scales[static_cast<std::size_t>((127 + r) / 128 * 2 + c / 128)];
        const float code = fp8_e4m3_to_f32(codes[static_cast<std::size_t>((127 + r) * k + c)]);
        ASSERT_EQ(got[static_cast<std::size_t>(r * k + c)], code * scale);
      }
    }
  }
}

TEST(PackedWeights, Mxfp4) {
  std::vector<std::uint8_t> blocks(32);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::uint8_t>(i * 37 + 5);
  const std::vector<std::uint8_t> scales{127, 125};
  std::vector<std::byte> rows(2 * 17);
  convert_mxfp4(std::as_bytes(std::span(blocks)), std::as_bytes(std::span(scales)), rows.data());
  std::vector<float> got(64);
  formats::traits(Format::kMXFP4).decode(rows.data(), got.data(), 64);
  constexpr float kValues[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (std::size_t i = 0; i < 64; ++i) {
    const unsigned nibble = i % 2 == 0 ? blocks[i / 2] & 15u : blocks[i / 2] >> 4;
    const float value =
        (nibble & 8u ? -1.0f : 1.0f) * kValues[nibble & 7u] * (i < 32 ? 1.0f : 0.25f);
    EXPECT_EQ(got[i], value) << i;
  }
  const Mxfp4Weight weight{2, 32, std::as_bytes(std::span(blocks)),
                           std::as_bytes(std::span(scales))};
  check_sizes(weight, "w", "f");
  std::vector<std::byte> second(17);
  read_rows(weight, 1, 1, second.data());
  EXPECT_TRUE(std::equal(second.begin(), second.end(), rows.begin() + 17));
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{3, 32}, {2, 16}, {1, 96}}) {
    const Mxfp4Weight wrong{n, k, weight.codes, weight.scales};
    testing::message_of([&] { check_sizes(wrong, "w", "f"); }, ErrorCode::kBadFile);
  }
}

TEST(PackedWeights, WrongSizesAreRefused) {
  const Reference ref(8, 64, 32, 4);
  auto refuse = [&](auto edit) {
    Gptq gptq(ref);
    edit(gptq.weight);
    testing::message_of([&] { check_sizes(gptq.weight, "f"); }, ErrorCode::kBadFile);
  };
  refuse([](IntWeight& w) { w.codes.bytes = w.codes.bytes.first(8); });
  refuse([](IntWeight& w) { w.scales.bytes = w.scales.bytes.first(8); });
  refuse([](IntWeight& w) { w.zeros.bytes = w.zeros.bytes.first(4); });
  refuse([](IntWeight& w) { w.group_of.bytes = w.group_of.bytes.first(4); });
  refuse([](IntWeight& w) { w.codes.type = SafeType::kF32; });
  refuse([](IntWeight& w) { w.n = 0; });
  refuse([](IntWeight& w) { w.group = 0; });
}

}  // namespace
}  // namespace kt::io
