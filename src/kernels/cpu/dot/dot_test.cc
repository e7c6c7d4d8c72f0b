// Every row of kernels.inc against a double-precision product of decoded weights, plus the
// properties the interface promises: bitwise independence of m, packing that loses nothing,
// selection by injected caps.
#include "kernels/cpu/dot/dot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "kernels/cpu/dot/quantize.h"

namespace kt::kernels::dot {
namespace {

using formats::Format;

/// Byte offsets of the fp16 fields of a file block, for formats whose random bytes need sane
/// scales.
std::vector<int> fp16_fields(Format format) {
  switch (format) {
    case Format::kF16:
    case Format::kQ4_0:
    case Format::kQ5_0:
    case Format::kQ8_0:
    case Format::kIQ4_NL:
    case Format::kQ8_1:
    case Format::kQ1_0:
    case Format::kIQ1_S:
    case Format::kIQ2_XXS:
    case Format::kIQ2_XS:
    case Format::kIQ2_S:
    case Format::kIQ3_XXS:
    case Format::kIQ3_S:
    case Format::kIQ4_XS: return {0};
    case Format::kQ4_1:
    case Format::kQ5_1:
    case Format::kQ4_K:
    case Format::kQ5_K: return {0, 2};
    case Format::kQ2_K: return {80, 82};
    case Format::kQ3_K: return {108};
    case Format::kTQ2_0: return {64};
    case Format::kQ6_K: return {208};
    default: return {};
  }
}

/// The same of float fields.
std::vector<int> f32_fields(Format format) {
  switch (format) {
    case Format::kQ8_K:
    case Format::kF8_E4M3_B128: return {0};
    case Format::kI4_32:
    case Format::kI4_64:
    case Format::kI4_128: return {0, 4};
    default: return {};
  }
}

/// Codes that mean NaN become the number beside them.
void remove_nan_codes(Format format, std::byte* block, std::size_t bytes) {
  if (format != Format::kF8_E4M3_B128) return;
  for (std::size_t i = 4; i < bytes; ++i) {
    if ((block[i] & std::byte{0x7f}) == std::byte{0x7f}) block[i] ^= std::byte{1};
  }
}

struct Weights {
  std::int64_t n = 0, k = 0;
  std::size_t row_bytes = 0;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // decoded [n, k]
  void decode(Format format) {
    values.resize(static_cast<std::size_t>(n * k));
    for (std::int64_t r = 0; r < n; ++r) {
      formats::traits(format).decode(bytes.data() + static_cast<std::size_t>(r) * row_bytes,
                                     values.data() + r * k, k);
    }
  }
};

void share_scales(Format format, Weights& w) {
  const std::size_t block = formats::traits(format).block_bytes;
  for (std::size_t at = 0; at < w.bytes.size(); at += block)
    std::memcpy(&w.bytes[at], &w.bytes[at / w.row_bytes * w.row_bytes], 2);
  w.decode(format);
}

/// fill: -1 random codes, else that byte everywhere; scales stay random in both cases.
Weights make_weights(Format format, std::int64_t n, std::int64_t k, int fill, std::mt19937& rng) {
  const formats::FormatTraits& t = formats::traits(format);
  Weights w{n, k, formats::row_bytes(format, k), {}, {}};
  w.bytes.resize(static_cast<std::size_t>(n) * w.row_bytes);
  const std::vector<int> fields = fp16_fields(format), wide_fields = f32_fields(format);
  const bool byte_scales = format == Format::kMXFP4 || format == Format::kNVFP4;
  if (fields.empty() && wide_fields.empty() && !byte_scales) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(k));
    for (std::int64_t r = 0; r < n; ++r) {
      for (float& v : x) v = fill < 0 ? normal(rng) : fill < 128 ? -1.0f : 1.0f;
      t.encode(x.data(), nullptr, w.bytes.data() + static_cast<std::size_t>(r) * w.row_bytes, k);
    }
  } else {
    for (std::byte& b : w.bytes)
      b = static_cast<std::byte>(fill < 0 ? rng() & 255 : static_cast<unsigned>(fill));
    for (std::size_t at = 0; at < w.bytes.size(); at += t.block_bytes) {
      for (const int field : fields) {
        const float scale =
            std::uniform_real_distribution<float>(0.5f, 1.0f)(rng) * (rng() & 1 ? 0.01f : -0.01f);
        const std::uint16_t h = f32_to_fp16(scale);
        std::memcpy(&w.bytes[at + static_cast<std::size_t>(field)], &h, 2);
      }
      for (const int field : wide_fields) {  // the second is a zero point
        const float value = field == 0 ? std::uniform_real_distribution<float>(-0.01f, 0.01f)(rng)
                                       : static_cast<float>(rng() % 61) / 4.0f;
        std::memcpy(&w.bytes[at + static_cast<std::size_t>(field)], &value, 4);
      }
      remove_nan_codes(format, &w.bytes[at], t.block_bytes);
      for (std::size_t j = 0; format == Format::kNVFP4 && j < 4; ++j)
        w.bytes[at + j] = static_cast<std::byte>(rng() & 255);
      if (format == Format::kMXFP4) w.bytes[at] = static_cast<std::byte>(120 + rng() % 12);
    }
  }
  w.decode(format);
  return w;
}

/// Weights as the row wants them: for int8 tiles all blocks of a row get the scale of its first,
/// which is where these formats' blocks begin.
Weights weights_for(const Kernel& kernel, std::int64_t n, std::int64_t k, int fill,
                    std::mt19937& rng) {
  Weights w = make_weights(kernel.weight, n, k, fill, rng);
  if (kernel.act == Act::kI8) share_scales(kernel.weight, w);
  return w;
}

struct Activations {
  std::int64_t m, k;
  std::vector<float> f32;
  std::vector<std::int8_t> q;
  std::vector<float> scale, sum;
  std::vector<std::int16_t> q16;
  std::vector<float> scale16, sum16;
  std::vector<std::uint16_t> bf16;
  std::vector<std::int8_t> i8;
  std::vector<float> i8_scale;
  ActRows rows;  // scale and sum of q
  ActRows in(Act act) const {
    ActRows r = rows;
    if (act == Act::kQ16) r.scale = scale16.data(), r.sum = sum16.data();
    return r;
  }
  float value(Act act, std::int64_t i, std::int64_t j) const {
    const float x = f32[static_cast<std::size_t>(i * rows.f32_stride + j)];
    if (act == Act::kF32) return x;
    if (act == Act::kBf16) return bf16_to_f32(f32_to_bf16(x));
    if (act == Act::kQ16) {
      return scale16[static_cast<std::size_t>(i * rows.block_stride + j / kQ8Block)] *
             static_cast<float>(
                 rows.q16[i * rows.q_stride + j / kQ8Block * kQ8Block + tile_column(j % kQ8Block)]);
    }
    if (act == Act::kI8) return i8_value(i, j);
    return rows.scale[i * rows.block_stride + j / kQ8Block] *
           static_cast<float>(rows.q[i * rows.q_stride + j]);
  }
  float i8_value(std::int64_t i, std::int64_t j) const {
    const std::int64_t at = i / kTileRows * kTileRows * k + j / kI8TileCols * kI8TileBytes +
                            i % kTileRows * kI8TileCols + j % kI8TileCols;
    return rows.i8_scale[i] * static_cast<float>(rows.i8[at]);
  }
};

/// The float rows as bf16 tiles; what no row fills is NaN, so that reading it shows.
void fill_tiles(Activations& a) {
  const std::int64_t n_tiles = a.k / kTileCols;
  a.bf16.assign(static_cast<std::size_t>((a.m + kTileRows - 1) / kTileRows * n_tiles * kTileValues),
                0x7fc0);
  for (std::int64_t i = 0; i < a.m; ++i) {
    const std::int64_t at = i / kTileRows * n_tiles * kTileValues + i % kTileRows * kTileCols;
    to_tiles_ref(a.f32.data() + i * a.rows.f32_stride, n_tiles * kTileCols, a.bf16.data() + at);
  }
  a.rows.bf16 = a.bf16.data();
}

/// The same as int8 tiles; what no row fills is not 0.
void fill_i8_tiles(Activations& a) {
  if (a.k % kI8TileCols != 0) return;
  const std::int64_t panel = kTileRows * a.k;
  a.i8.assign(static_cast<std::size_t>((a.m + kTileRows - 1) / kTileRows * panel), 0x55);
  a.i8_scale.resize(static_cast<std::size_t>(a.m));
  for (std::int64_t i = 0; i < a.m; ++i) {
    to_i8_tiles_ref(a.f32.data() + i * a.rows.f32_stride, a.k,
                    a.i8.data() + i / kTileRows * panel + i % kTileRows * kI8TileCols,
                    &a.i8_scale[static_cast<std::size_t>(i)]);
  }
  a.rows.i8 = a.i8.data();
  a.rows.i8_scale = a.i8_scale.data();
}

/// Row i alone.
Activations one_row(const Activations& a, std::int64_t i) {
  Activations one = a;
  one.m = 1;
  const float* x = a.f32.data() + i * a.rows.f32_stride;
  one.f32.assign(x, x + a.rows.f32_stride);
  fill_tiles(one);
  fill_i8_tiles(one);
  one.rows.f32 = one.f32.data();
  one.rows.q += i * a.rows.q_stride;
  one.rows.q16 += i * a.rows.q_stride;
  one.rows.scale += i * a.rows.block_stride;
  one.rows.sum += i * a.rows.block_stride;
  one.scale16.erase(one.scale16.begin(), one.scale16.begin() + i * a.rows.block_stride);
  one.sum16.erase(one.sum16.begin(), one.sum16.begin() + i * a.rows.block_stride);
  return one;
}

/// extreme: every |q| is the largest, all of one sign per row.
Activations make_activations(std::int64_t m, std::int64_t k, bool extreme, std::mt19937& rng) {
  Activations a;
  a.m = m;
  a.k = k;
  a.rows.f32_stride = k + 5;
  a.rows.q_stride = k + 3;
  a.rows.block_stride = k / kQ8Block + 1;
  a.f32.resize(static_cast<std::size_t>(m * a.rows.f32_stride));
  a.q.resize(static_cast<std::size_t>(m * a.rows.q_stride));
  a.scale.resize(static_cast<std::size_t>(m * a.rows.block_stride));
  a.sum.resize(a.scale.size());
  a.q16.resize(a.q.size());
  a.scale16.resize(a.scale.size());
  a.sum16.resize(a.scale.size());
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < m; ++i) {
    float* x = a.f32.data() + i * a.rows.f32_stride;
    for (std::int64_t j = 0; j < k; ++j) x[j] = extreme ? (i % 2 == 0 ? 1.0f : -1.0f) : normal(rng);
    quantize_row_ref(x, k / kQ8Block * kQ8Block, a.q.data() + i * a.rows.q_stride,
                     a.scale.data() + i * a.rows.block_stride,
                     a.sum.data() + i * a.rows.block_stride);
    quantize16_row_ref(x, k / kQ8Block * kQ8Block, a.q16.data() + i * a.rows.q_stride,
                       a.scale16.data() + i * a.rows.block_stride,
                       a.sum16.data() + i * a.rows.block_stride);
  }
  fill_tiles(a);
  fill_i8_tiles(a);
  a.rows.f32 = a.f32.data();
  a.rows.q = a.q.data();
  a.rows.q16 = a.q16.data();
  a.rows.scale = a.scale.data();
  a.rows.sum = a.sum.data();
  return a;
}

std::vector<std::byte> pack_all(const Kernel& kernel, const Weights& w) {
  // Exact size, so that a sanitiser sees overruns.
  std::vector<std::byte> packed(packed_bytes(kernel, w.n, w.k), std::byte{0xaa});
  pack(kernel, w.bytes.data(), w.n, w.k, packed.data());
  return packed;
}

/// Products side by side: each as it is alone.
void expect_same_beside(const Kernel& kernel, const DotArgs& one, const std::vector<float>& want) {
  for (int n = 2; n <= kSideBySide; ++n) {
    std::vector<std::vector<float>> outs(static_cast<std::size_t>(n),
                                         std::vector<float>(want.size(), want.back()));
    DotArgs args[kSideBySide];
    for (int i = n; i-- > 0;) {
      args[i] = one;
      args[i].out = outs[static_cast<std::size_t>(i)].data();
      args[i].beside = i + 1 < n ? &args[i + 1] : nullptr;
      args[i].far = n % 2 == 0;
      args[i].next = i % 2 == 0 ? one.weights : nullptr;
    }
    kernel.run(args[0]);
    for (const std::vector<float>& out : outs) {
      EXPECT_EQ(std::memcmp(want.data(), out.data(), want.size() * sizeof(float)), 0)
          << kernel.name << ", " << n << " at once";
    }
  }
}

std::vector<float> run_kernel(const Kernel& kernel, const std::vector<std::byte>& packed,
                              const Weights& w, const ActRows& act, std::int64_t m) {
  const float guard = -12345.0f;
  const std::int64_t stride = w.n + 3;
  std::vector<float> out(static_cast<std::size_t>(m * stride + 1), guard);
  std::vector<std::int8_t> exponents(static_cast<std::size_t>((w.n + 15) / 16 * 16));
  row_exponents(kernel, w.bytes.data(), w.n, w.k, exponents.data());
  DotArgs args;
  args.exponents = exponents.data();
  args.act = act;
  args.m = m;
  args.k = w.k;
  args.weights = packed.data();
  args.n = w.n;
  args.out = out.data();
  args.out_stride = stride;
  kernel.run(args);
  const std::vector<float> near = out;
  args.far = true;
  kernel.run(args);
  EXPECT_EQ(std::memcmp(near.data(), out.data(), near.size() * sizeof(float)), 0) << kernel.name;
  if (kernel.joins() && m <= kStreamedRows) expect_same_beside(kernel, args, out);
  std::vector<float> result;
  for (std::int64_t i = 0; i < m; ++i) {
    const float* row = out.data() + i * stride;
    result.insert(result.end(), row, row + w.n);
    for (std::int64_t j = w.n; j < stride; ++j) EXPECT_EQ(row[j], guard) << "wrote past row " << i;
  }
  EXPECT_EQ(out.back(), guard);
  return result;
}

/// Largest |w| of the 32 weights around j: codes and offsets are of this size even where they
/// cancel.
double block_max(const float* w, std::int64_t k, std::int64_t j) {
  double max = 0;
  const std::int64_t begin = j / 32 * 32;
  for (std::int64_t i = begin; i < std::min(k, begin + 32); ++i)
    max = std::max(max, std::fabs(double{w[i]}));
  return max;
}

/// `smallest`: size of the codes where a whole block can cancel to nothing.
void expect_product(const Kernel& kernel, const Weights& w, const Activations& a,
                    const std::vector<float>& got, double slack, double smallest = 0) {
  std::vector<std::int8_t> exponents(static_cast<std::size_t>(w.n));
  row_exponents(kernel, w.bytes.data(), w.n, w.k, exponents.data());
  for (std::int64_t i = 0; i < a.m; ++i) {
    for (std::int64_t r = 0; r < w.n; ++r) {
      const float* row = w.values.data() + r * w.k;
      const double row_max = std::ldexp(1.0, exponents[static_cast<std::size_t>(r)]);
      double want = 0, size = 0, rounded = 0, row_size = 0, max = 0;
      for (std::int64_t j = 0; j < w.k; ++j) {
        const double x = a.value(kernel.act, i, j);
        want += x * row[j];
        if (j % 32 == 0) max = std::max(smallest, block_max(row, w.k, j));
        size += std::fabs(x) * max;
        rounded += std::fabs(x * row[j]);
        row_size += std::fabs(x) * row_max;
      }
      double bound = (static_cast<double>(w.k) / 4 + 16) * 0x1p-24 * size * slack;
      // Tile kernels round every weight to bf16; in fp16 before that, with scale and offset in fp16
      // too; what is far below the row's largest possible weight has an absolute error.
      if (kernel.act == Act::kBf16) bound += 0x1p-7 * rounded + 0x1p-10 * size + 0x1p-14 * row_size;
      const double value = got[static_cast<std::size_t>(i * w.n + r)];
      ASSERT_NEAR(value, want, bound)
          << kernel.name << " m " << i << " row " << r << " n " << w.n << " k " << w.k;
    }
  }
}

bool runs_here(const Kernel& kernel) { return (detect_caps() & kernel.caps) == kernel.caps; }

class KernelRow : public testing::TestWithParam<const Kernel*> {
 protected:
  void SetUp() override {
    if (!runs_here(*GetParam()))
      GTEST_SKIP() << "this CPU lacks " << describe_caps(GetParam()->caps);
  }
  /// The step for plain formats is 1, which would leave the loops untested.
  std::vector<std::int64_t> lengths() const {
    const std::int64_t step = GetParam()->k_step;
    if (step == 1) return {1, 2, 31, 64, 100, 257};
    if (is_tiles(GetParam()->act)) return {step, 2 * step, 768, 1280};  // over the blocks of k
    return {step, 2 * step, 3 * step};
  }
};

TEST_P(KernelRow, AgreesWithDoublePrecision) {
  const Kernel& kernel = *GetParam();
  std::mt19937 rng(7);
  for (const std::int64_t k : lengths()) {
    for (const std::int64_t n : {1, 15, 16, 17, 33}) {
      const Weights w = weights_for(kernel, n, k, -1, rng);
      const std::vector<std::byte> packed = pack_all(kernel, w);
      for (const std::int64_t m : {0, 1, 2, 3, 4, 5, 7, 16, 33}) {
        const Activations a = make_activations(m, k, false, rng);
        expect_product(kernel, w, a, run_kernel(kernel, packed, w, a.in(kernel.act), m), 1.0);
      }
    }
  }
}

// More rows and columns than a tile kernel takes in one go.
TEST_P(KernelRow, TilesAgreeWithDoublePrecisionOnLargeBatches) {
  const Kernel& kernel = *GetParam();
  if (!is_tiles(kernel.act)) GTEST_SKIP() << "not a tile kernel";
  std::mt19937 rng(16);
  const Weights w = weights_for(kernel, 290, 256, -1, rng);
  const Activations a = make_activations(300, 256, false, rng);
  expect_product(kernel, w, a, run_kernel(kernel, pack_all(kernel, w), w, a.rows, a.m), 1.0);
}

/// ‖y - y64‖ / ‖y64‖, y64 of the floats that the activations are rounded from.
double typical_error(const Kernel& kernel, const Weights& w, const Activations& a) {
  const std::vector<float> got = run_kernel(kernel, pack_all(kernel, w), w, a.rows, a.m);
  double error = 0, size = 0;
  for (std::int64_t i = 0; i < a.m; ++i) {
    for (std::int64_t r = 0; r < w.n; ++r) {
      double want = 0;
      for (std::int64_t j = 0; j < w.k; ++j) {
        want += a.value(Act::kF32, i, j) *
                static_cast<double>(w.values[static_cast<std::size_t>(r * w.k + j)]);
      }
      error += std::pow(static_cast<double>(got[static_cast<std::size_t>(i * w.n + r)]) - want, 2);
      size += want * want;
    }
  }
  return std::sqrt(error / size);
}

// What rounding for tiles costs on weights as models have them: Gaussian, encoded from floats.
TEST_P(KernelRow, TypicalErrorOfTilesIsThatOfTheirType) {
  const Kernel& kernel = *GetParam();
  if (!is_tiles(kernel.act)) GTEST_SKIP() << "not a tile kernel";
  std::mt19937 rng(15);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  const std::int64_t n = 32, k = 1024, m = 20;
  Weights w{n, k, formats::row_bytes(kernel.weight, k), {}, {}};
  w.bytes.resize(static_cast<std::size_t>(n) * w.row_bytes);
  std::vector<float> x(static_cast<std::size_t>(k));
  for (std::int64_t r = 0; r < n; ++r) {
    for (float& v : x) v = normal(rng);
    formats::traits(kernel.weight)
        .encode(x.data(), nullptr, w.bytes.data() + static_cast<std::size_t>(r) * w.row_bytes, k);
  }
  w.decode(kernel.weight);
  if (kernel.act == Act::kI8) share_scales(kernel.weight, w);
  const Activations a = make_activations(m, k, false, rng);
  EXPECT_LT(typical_error(kernel, w, a), kernel.act == Act::kBf16 ? 0.003 : 0.012) << kernel.name;
}

TEST_P(KernelRow, SurvivesExtremeCodes) {
  const Kernel& kernel = *GetParam();
  std::mt19937 rng(8);
  const std::int64_t k = kernel.k_step == 1 ? 96 : 2 * kernel.k_step;
  const Activations a = make_activations(5, k, true, rng);
  for (const int fill : {0x00, 0xff, 0x80, 0x7f, 0x88, 0xf0, 0x0f}) {
    const Weights w = weights_for(kernel, 17, k, fill, rng);
    expect_product(kernel, w, a, run_kernel(kernel, pack_all(kernel, w), w, a.in(kernel.act), 5),
                   16.0, 0.2);
  }
}

TEST_P(KernelRow, BitwiseIndependentOfOtherRows) {
  const Kernel& kernel = *GetParam();
  std::mt19937 rng(9);
  const std::int64_t k = kernel.k_step == 1 ? 223 : 4 * kernel.k_step;
  const std::int64_t n = kernel.act == Act::kF32 ? 99 : 19;  // float rows take tiles together
  const Weights w = weights_for(kernel, n, k, -1, rng);
  const std::vector<std::byte> packed = pack_all(kernel, w);
  const Activations a = make_activations(70, k, false, rng);
  std::vector<float> alone;
  for (std::int64_t i = 0; i < a.m; ++i) {
    const std::vector<float> row = run_kernel(kernel, packed, w, one_row(a, i).in(kernel.act), 1);
    alone.insert(alone.end(), row.begin(), row.end());
  }
  for (const std::int64_t m : {2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 17, 70}) {
    const std::vector<float> together = run_kernel(kernel, packed, w, a.in(kernel.act), m);
    ASSERT_EQ(0, std::memcmp(together.data(), alone.data(), together.size() * sizeof(float)))
        << kernel.name << " m " << m;
  }
}

TEST(DotF8, EveryCodeIsExactAndNanStaysInItsRow) {
  std::mt19937 rng(14);
  const std::int64_t k = 128, n = 256;
  for (const Kernel& kernel : kernels()) {
    if (kernel.weight != Format::kF8_E4M3_B128 || kernel.act != Act::kF32 || !runs_here(kernel))
      continue;
    // Row r holds code r at k = r % 128, zero elsewhere.
    Weights w{n, k, formats::row_bytes(kernel.weight, k), {}, {}};
    w.bytes.resize(static_cast<std::size_t>(n) * w.row_bytes);
    for (std::int64_t r = 0; r < n; ++r) {
      std::byte* block = w.bytes.data() + static_cast<std::size_t>(r) * w.row_bytes;
      const float scale = r % 3 == 0 ? -0.5f : 0.5f;
      std::memcpy(block, &scale, 4);
      block[4 + r % 128] = static_cast<std::byte>(r);
    }
    w.decode(kernel.weight);
    Activations a = make_activations(9, k, true, rng);
    const std::vector<float> out = run_kernel(kernel, pack_all(kernel, w), w, a.in(kernel.act), 9);
    for (std::int64_t i = 0; i < 9; ++i) {
      for (std::int64_t r = 0; r < n; ++r) {
        const float value = w.values[static_cast<std::size_t>(r * k + r % 128)];
        const float got = out[static_cast<std::size_t>(i * n + r)];
        if (std::isnan(value)) {
          EXPECT_TRUE(std::isnan(got)) << kernel.name << " code " << r;
        } else {
          EXPECT_EQ(got, a.value(Act::kF32, i, r % 128) * value) << kernel.name << " code " << r;
        }
      }
    }
  }
}

TEST_P(KernelRow, PartOfTheRowsGivesTheSameBits) {
  const Kernel& kernel = *GetParam();
  std::mt19937 rng(10);
  const std::int64_t k = kernel.k_step == 1 ? 64 : kernel.k_step;
  const Weights w = weights_for(kernel, 48, k, -1, rng);
  const std::vector<std::byte> packed = pack_all(kernel, w);
  const Activations a = make_activations(3, k, false, rng);
  const std::vector<float> all = run_kernel(kernel, packed, w, a.in(kernel.act), 3);
  Weights part = w;
  part.n = 20;
  const std::int64_t first = 16;
  part.bytes.erase(part.bytes.begin(),
                   part.bytes.begin() + static_cast<std::ptrdiff_t>(first * w.row_bytes));
  const std::size_t skipped = packed_bytes(kernel, first, k);
  const std::vector<std::byte> rest(packed.begin() + static_cast<std::ptrdiff_t>(skipped),
                                    packed.end());
  const std::vector<float> some = run_kernel(kernel, rest, part, a.in(kernel.act), 3);
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t r = 0; r < part.n; ++r) {
      ASSERT_EQ(some[static_cast<std::size_t>(i * part.n + r)],
                all[static_cast<std::size_t>(i * w.n + first + r)]);
    }
  }
}

TEST_P(KernelRow, PackingLosesNothing) {
  const Kernel& kernel = *GetParam();
  std::mt19937 rng(11);
  const std::int64_t k = 2 * std::max<std::int64_t>(kernel.k_step, 32), n = 18;
  Weights w = make_weights(kernel.weight, n, k, -1, rng);
  for (std::byte& b : w.bytes) b = static_cast<std::byte>(rng() & 255);  // any scale, NaN included
  w.decode(kernel.weight);
  const std::vector<std::byte> packed = pack_all(kernel, w);
  std::vector<float> row(static_cast<std::size_t>(k));
  for (std::int64_t r = 0; r < n; ++r) {
    unpack_row(kernel, packed.data(), r, k, row.data());
    for (std::int64_t j = 0; j < k; ++j) {
      const float got = row[static_cast<std::size_t>(j)];
      const float want = w.values[static_cast<std::size_t>(r * k + j)];
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(got));
      } else {
        ASSERT_EQ(std::memcmp(&got, &want, 4), 0)
            << kernel.name << " row " << r << " k " << j << ": " << got << " for " << want;
      }
    }
  }
  for (std::int64_t r = n; r < (n + kernel.n_tile - 1) / kernel.n_tile * kernel.n_tile; ++r) {
    unpack_row(kernel, packed.data(), r, k, row.data());
    for (const float v : row) ASSERT_EQ(v, 0.0f);
  }
}

TEST_P(KernelRow, NanStaysInItsRow) {
  const Kernel& kernel = *GetParam();
  std::mt19937 rng(12);
  const std::int64_t k = kernel.k_step == 1 ? 64 : 2 * kernel.k_step;
  const Weights w = weights_for(kernel, 16, k, -1, rng);
  Activations a = make_activations(6, k, false, rng);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  a.f32[static_cast<std::size_t>(2 * a.rows.f32_stride)] = nan;
  a.scale[static_cast<std::size_t>(2 * a.rows.block_stride)] = nan;
  a.sum[static_cast<std::size_t>(2 * a.rows.block_stride)] = nan;
  a.scale16[static_cast<std::size_t>(2 * a.rows.block_stride)] = nan;
  a.sum16[static_cast<std::size_t>(2 * a.rows.block_stride)] = nan;
  fill_tiles(a);
  fill_i8_tiles(a);
  const std::vector<float> out = run_kernel(kernel, pack_all(kernel, w), w, a.in(kernel.act), 6);
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(std::isnan(out[i]), i / 16 == 2) << kernel.name;
}

std::vector<const Kernel*> all_rows() {
  std::vector<const Kernel*> rows;
  for (const Kernel& kernel : kernels()) rows.push_back(&kernel);
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Dot, KernelRow, testing::ValuesIn(all_rows()),
                         [](const auto& row) { return std::string(row.param->name); });

TEST(DotSelect, EveryFormatHasAReferenceRow) {
  for (const Kernel& row : kernels()) {
    const Kernel* f32 = select(row.weight, Act::kF32, 256, 0);
    ASSERT_NE(f32, nullptr);
    EXPECT_EQ(f32->caps, 0u);
    EXPECT_EQ(f32->pack, Pack::kRows);
    const bool plain =
        formats::traits(row.weight).block_len < kQ8Block || row.weight == Format::kF8_E4M3_B128;
    EXPECT_EQ(select(row.weight, Act::kQ8, 256, 0) == nullptr, plain) << row.name;
    EXPECT_EQ(select(row.weight, Act::kQ16, 256, 0) == nullptr, plain) << row.name;
  }
}

TEST(DotSelect, ObeysCapsAndLength) {
  EXPECT_STREQ(select(Format::kQ4_K, Act::kQ8, 512, 0)->name, "dot_f32_q8_kQ4_K_rows_ref");
  EXPECT_STREQ(select(Format::kQ4_K, Act::kQ8, 512, kAvx2)->name, "dot_f32_q8_q4_k_n16_avx2");
  EXPECT_STREQ(select(Format::kBF16, Act::kF32, 7, kAvx2)->name, "dot_f32_f32_bf16_n16_avx2");
  // A higher level without the lower one proves that every bit is asked for.
  EXPECT_STREQ(select(Format::kQ4_K, Act::kQ8, 512, kAvx512)->name, "dot_f32_q8_kQ4_K_rows_ref");
  EXPECT_STREQ(select(Format::kQ4_K, Act::kQ8, 512, kAvx2 | kAvx512)->name,
               "dot_f32_q8_q4_k_n16_avx2");
  EXPECT_STREQ(select(Format::kQ4_K, Act::kQ8, 512, kAvx2 | kAvx512 | kAvx512Vnni)->name,
               "dot_f32_q8_q4_k_n16_avx512");
  EXPECT_STREQ(select(Format::kQ4_K, Act::kQ16, 512, kAvx2)->name, "dot_f32_q16_q4_k_n16_avx2");
  EXPECT_EQ(select(Format::kQ4_K, Act::kQ8, 288, kAvx2), nullptr);
  EXPECT_EQ(select(Format::kQ8_0, Act::kF32, 40, kAvx2), nullptr);
  EXPECT_EQ(select(Format::kBF16, Act::kQ8, 64, kAvx2), nullptr);
  EXPECT_EQ(select(Format::kF8_E4M3_B128, Act::kQ8, 256, kAvx2), nullptr);
  EXPECT_STREQ(select(Format::kF8_E4M3_B128, Act::kF32, 256, kAvx2)->name,
               "dot_f32_f32_f8_e4m3_b128_n16_avx2");
}

TEST(DotSelect, BatchesOfBf16AndFp8WeightsTakeBf16Vectors) {
  constexpr CpuCaps kVectors = kAvx2 | kAvx512 | kAvx512Vnni | kAvx512Bf16;
  EXPECT_STREQ(select(Format::kBF16, Act::kBf16, 64, kVectors)->name,
               "dot_f32_bf16_bf16_n16_avx512bf16");
  EXPECT_EQ(select(Format::kF16, Act::kBf16, 64, kVectors)->caps, 0u) << "would lose three bits";
  EXPECT_STREQ(select(Format::kF8_E4M3_B128, Act::kBf16, 128, kVectors)->name,
               "dot_f32_bf16_f8_e4m3_b128_n16_avx512bf16");
  EXPECT_STREQ(select(Format::kBF16, Act::kBf16, 64, kVectors | kAmx)->name,
               "dot_f32_bf16_bf16_n16_amx");
  EXPECT_EQ(select(Format::kBF16, Act::kBf16, 64, kVectors & ~kAvx512Bf16)->caps, 0u);
  EXPECT_EQ(select(Format::kQ4_0, Act::kBf16, 64, kVectors)->caps, 0u);
  EXPECT_EQ(select(Format::kBF16, Act::kBf16, 48, kVectors), nullptr);
}

TEST(DotSelect, NamesAreUnique) {
  for (const Kernel& a : kernels()) {
    for (const Kernel& b : kernels())
      EXPECT_TRUE(&a == &b || std::string(a.name) != b.name) << a.name;
  }
}

}  // namespace
}  // namespace kt::kernels::dot
