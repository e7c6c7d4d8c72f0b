// Every format of kernels.inc: packing loses nothing against the scalar decoder of src/formats;
// products against a loop in double precision, on edge shapes, for few rows of x, many (cuBLASLt)
// and the slow twin.
//
// Bounds: weights enter the few-row kernels exactly and x is given as bf16, so only sums round.
// Codes carry an offset of up to 2304 quantisation steps that is subtracted later; it is 2^-22 of
// that, 8e-6 · max|w| · Σ|x|. With many rows weights are rounded to bf16: 2^-8 · Σ|w·x|, and where
// they are decoded on their way scales and minima too.
#include "kernels/cuda/gemm/gemm.h"

#include <memory>

#include "base/test_random.h"
#include "kernels/cuda/gemm/many_rows.h"
#include "kernels/cuda/gemm/reference.h"
#include "kernels/cuda/gemm/tile_kernels.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using formats::Format;

struct Weights {
  Weights(Format format_, std::int64_t n_, std::int64_t k_, unsigned seed)
      : format(format_), n(n_), k(k_) {
    const formats::FormatTraits& traits = formats::traits(format);
    const std::size_t row = formats::row_bytes(format, k);
    bytes.resize(static_cast<std::size_t>(n) * row);
    values.resize(static_cast<std::size_t>(n * k));
    const std::vector<float> x = gaussian(n * k, seed, 0.05f);
    for (std::int64_t r = 0; r < n; ++r) {
      std::byte* at = bytes.data() + static_cast<std::size_t>(r) * row;
      traits.encode(x.data() + r * k, nullptr, at, k);
      traits.decode(at, values.data() + r * k, k);
    }
  }
  float row_max(std::int64_t r) const {
    float top = 0.0f;
    for (std::int64_t i = 0; i < k; ++i)
      top = std::max(top, std::fabs(values[static_cast<std::size_t>(r * k + i)]));
    return top;
  }
  Format format;
  std::int64_t n, k;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [n, k]
};

/// Weights on the device, packed.
struct Packed {
  explicit Packed(const Weights& w)
      : rows(w.bytes), tiles(static_cast<std::int64_t>(packed_bytes(w.format, w.n, w.k))) {
    EXPECT_EQ(pack(w.format, rows.get(), w.n, w.k, tiles.get(), nullptr), Status::kOk);
    matrix = {w.format, tiles.get(), w.n, w.k};
  }
  Device<std::byte> rows;
  Device<std::byte> tiles;
  Matrix matrix;
};

struct Problem {
  std::int64_t m, n, k;
};

enum class Path { kGemm, kPortable, kReference };

/// Runs one product of x (bf16 values) and compares. relative: bound by Σ|w·x|, else by max|w| ·
/// Σ|x|.
void expect_product(const Weights& w, std::int64_t m, Path path, Type x_type, Type y_type,
                    double tolerance, bool relative, const DeviceInfo& info, BlasLt* blas) {
  const Packed packed(w);
  // Few odd rows of x do not all start at multiples of 16 bytes.
  const std::int64_t x_stride = w.k + (m > kDirectRows || m % 2 == 0 ? 8 : 4), y_stride = w.n + 3;
  const std::vector<float> x = rounded(gaussian(m * x_stride, 7));
  const Device<std::uint16_t> x_bf16(as_bf16(x));
  const Device<float> x_f32(x);
  Device<float> y_f32(m * y_stride);
  Device<std::uint16_t> y_bf16(m * y_stride);
  const bool reference = path == Path::kReference;
  Device<std::byte> workspace(static_cast<std::int64_t>(
      reference ? reference_slab_bytes(packed.matrix) : gemm_workspace(packed.matrix, m, info)));
  GemmArgs args;
  args.w = packed.matrix;
  args.x = x_type == Type::kF32 ? static_cast<const void*>(x_f32.get()) : x_bf16.get();
  args.x_type = x_type;
  args.x_stride = x_stride;
  args.m = m;
  args.y = y_type == Type::kF32 ? static_cast<void*>(y_f32.get()) : y_bf16.get();
  args.y_type = y_type;
  args.y_stride = y_stride;
  args.workspace = workspace.get();
  args.workspace_bytes = workspace.bytes();
  args.portable = path == Path::kPortable;
  const Status status = reference ? gemm_reference(args, nullptr) : gemm(args, info, blas, nullptr);
  ASSERT_EQ(status, Status::kOk) << status_text(status) << ": " << device_error_text();
  const std::vector<float> y = y_type == Type::kF32 ? y_f32.host() : as_floats(y_bf16.host());
  Compare compare(std::string(formats::traits(w.format).name) + " m " + std::to_string(m) + " n " +
                  std::to_string(w.n) + " k " + std::to_string(w.k));
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t r = 0; r < w.n; ++r) {
      double want = 0.0, products = 0.0, inputs = 0.0;
      for (std::int64_t j = 0; j < w.k; ++j) {
        const double a = x[static_cast<std::size_t>(i * x_stride + j)];
        const double b = w.values[static_cast<std::size_t>(r * w.k + j)];
        want += a * b;
        products += std::fabs(a * b);
        inputs += std::fabs(a);
      }
      double bound = tolerance * (relative ? products : w.row_max(r) * inputs) + 1e-30;
      if (y_type == Type::kBF16) bound += std::fabs(want) * 0x1p-8;
      compare.value(y[static_cast<std::size_t>(i * y_stride + r)], want, bound, i * w.n + r);
    }
  }
}

class Gemm : public OnDevice, public ::testing::WithParamInterface<Format> {
 protected:
  std::int64_t block() const { return formats::traits(GetParam()).block_len; }
};

TEST_P(Gemm, PackingLosesNothing) {
  for (const Problem& p : {Problem{0, 1, 1}, Problem{0, 16, 2}, Problem{0, 17, 3},
                           Problem{0, 37, 5}, Problem{0, 50, 33}}) {
    const Weights w(GetParam(), p.n, p.k * block(), 3);
    const Packed packed(w);
    const std::int64_t begin = p.n > 32 ? 16 : 0, n = p.n - begin;
    Device<float> out(n * w.k);
    ASSERT_EQ(unpack({packed.matrix, begin, n, out.get(), Type::kF32}, nullptr), Status::kOk);
    Device<std::uint16_t> small(n * w.k);
    ASSERT_EQ(unpack({packed.matrix, begin, n, small.get(), Type::kBF16}, nullptr), Status::kOk);
    const std::vector<float> got = out.host(), got_small = as_floats(small.host());
    Compare compare("unpacked");
    for (std::int64_t i = 0; i < n * w.k; ++i) {
      const double want = w.values[static_cast<std::size_t>(begin * w.k + i)];
      const double bound = 1e-6 * w.row_max(begin + i / w.k);
      compare.value(got[static_cast<std::size_t>(i)], want, bound, i);
      compare.value(got_small[static_cast<std::size_t>(i)], want, bound + std::fabs(want) * 0x1p-8,
                    i);
    }
  }
}

TEST_P(Gemm, FewRows) {
  std::vector<Problem> problems = {{1, 1, 1},   {1, 17, 3},  {2, 33, 2},  {3, 16, 5},
                                   {5, 67, 3},  {8, 31, 4},  {9, 130, 1}, {16, 48, 3},
                                   {17, 16, 2}, {33, 49, 2}, {64, 81, 3}};
  for (std::int64_t m = 2; m <= 17; ++m) problems.push_back({m, 40 + m, 1 + m % 5});
  for (const Problem& p : problems) {
    const Weights w(GetParam(), p.n, p.k * block(), 5);
    const bool beside = p.m > kSkinnyRows && has_many_rows(GetParam());
    expect_product(w, p.m, Path::kGemm, Type::kBF16, p.m % 2 ? Type::kF32 : Type::kBF16,
                   beside ? 0x3p-9 : 8e-6, beside, info_, nullptr);
    if (beside)
      expect_product(w, p.m, Path::kPortable, Type::kBF16, Type::kF32, 8e-6, false, info_, nullptr);
  }
}

TEST_P(Gemm, FewRowsOfLongRows) {
  const std::int64_t k = 8192 + block() * (block() < 256 ? 1 : 3);
  for (const std::int64_t m : {1, 4, 7, 13, 32}) {
    expect_product(Weights(GetParam(), 21, k, 11), m, Path::kGemm, Type::kBF16, Type::kF32, 8e-6,
                   false, info_, nullptr);
  }
}

TEST_P(Gemm, FewRowsAsOnASmallDevice) {
  DeviceInfo small = info_;
  small.n_sms = 84;
  small.shared_bytes = 99 * 1024;
  const std::int64_t k = 4096 + block() * (block() < 256 ? 1 : 3);
  for (const std::int64_t m : {1, 3, 9, 16, 31}) {
    expect_product(Weights(GetParam(), 333, k, 12), m, Path::kGemm, Type::kBF16, Type::kF32, 8e-6,
                   false, small, nullptr);
  }
}

TEST_P(Gemm, Reference) {
  const Weights w(GetParam(), 71, 3 * block(), 13);
  expect_product(w, 3, Path::kReference, Type::kF32, Type::kF32, 2e-6, false, info_, nullptr);
  expect_product(w, 2, Path::kReference, Type::kBF16, Type::kBF16, 2e-6, false, info_, nullptr);
}

/// The product of many rows that decodes on its way, whatever gemm() would choose.
void expect_beside(const Weights& w, std::int64_t m, Type y_type, std::int64_t y_gap,
                   const ManyPlan& plan) {
  const Packed packed(w);
  const std::int64_t x_stride = w.k + 8, y_stride = w.n + y_gap;
  const std::vector<float> x = rounded(gaussian(m * x_stride, 7)), bias = gaussian(w.n, 8);
  const Device<std::uint16_t> x_device(as_bf16(x));
  const Device<float> bias_device(bias);
  Device<float> y_f32(m * y_stride);
  Device<std::uint16_t> y_bf16(m * y_stride);
  ManyArgs args;
  args.first = packed.matrix.tiles;
  args.n = w.n;
  args.k = w.k;
  args.x = x_device.get();
  args.x_stride = x_stride;
  args.m = m;
  args.out = y_type == Type::kF32 ? static_cast<void*>(y_f32.get()) : y_bf16.get();
  args.out_type = y_type;
  args.out_stride = y_stride;
  args.bias = bias_device.get();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(multiply_many_rows(w.format, args, plan, nullptr), Status::kOk) << device_error_text();
  const std::vector<float> y = y_type == Type::kF32 ? y_f32.host() : as_floats(y_bf16.host());
  Compare compare(std::string(formats::traits(w.format).name) + " beside by " +
                  std::to_string(plan.rows) + "/" + std::to_string(plan.splits) + ", m " +
                  std::to_string(m) + " n " + std::to_string(w.n) + " k " + std::to_string(w.k));
  for (std::int64_t i = 0; i < m * w.n; ++i) {
    double want = bias[static_cast<std::size_t>(i % w.n)], products = 0.0;
    for (std::int64_t j = 0; j < w.k; ++j) {
      const double product =
          static_cast<double>(x[static_cast<std::size_t>(i / w.n * x_stride + j)]) *
          w.values[static_cast<std::size_t>(i % w.n * w.k + j)];
      want += product;
      products += std::fabs(product);
    }
    // Scales, minima and weights are each rounded to bf16.
    const double bound = 0x3p-9 * products + 0x1p-8 * std::fabs(want) + 1e-6;
    compare.value(y[static_cast<std::size_t>(i / w.n * y_stride + i % w.n)], want, bound, i);
  }
}

TEST_P(Gemm, ManyRowsDecodedBeside) {
  if (!has_many_rows(GetParam())) GTEST_SKIP() << "no kernel of this format for this device";
  for (const int rows : {64, 128, 256}) {
    const ManyPlan plan{rows, rows == 256 ? 2 : 1};
    expect_beside(Weights(GetParam(), 130, 3 * block(), 41), 65, Type::kF32, 3, plan);
    expect_beside(Weights(GetParam(), 273, 5 * block(), 42), 127, Type::kBF16, 3, plan);
    expect_beside(Weights(GetParam(), 272, 512, 43), 300, Type::kBF16, 0, plan);
    expect_beside(Weights(GetParam(), 1, block(), 44), 1, Type::kF32, 0, plan);
    // More pieces of work than the blocks of a launch.
    expect_beside(Weights(GetParam(), 17100, block(), 45), 3, Type::kF32, 0, plan);
    // Parts of k, more of them than the device has room for too.
    for (int splits = 2; rows < 256 && splits <= 8; splits *= 2) {
      const Type type = splits == 4 ? Type::kF32 : Type::kBF16;
      expect_beside(Weights(GetParam(), 136, 2304, 46), 150, type, 0, {rows, 1, splits});
    }
  }
  expect_beside(Weights(GetParam(), 4200, 2048, 47), 5, Type::kF32, 1, {64, 1, 8});
}

TEST(ManyPlan, IsWhatWasMeasured) {
  const auto expect = [](std::int64_t n, std::int64_t k, std::int64_t m, int rows, int splits) {
    const ManyPlan plan = plan_many_rows(n, k, m, 132);
    EXPECT_EQ(plan.rows, rows) << n << " " << k << " " << m;
    EXPECT_EQ(plan.splits, splits) << n << " " << k << " " << m;
  };
  expect(7168, 7168, 64, 64, 2);
  expect(7168, 7168, 128, 128, 2);
  expect(7168, 7168, 256, 128, 1);
  expect(7168, 7168, 1024, 256, 1);
  expect(512, 2048, 96, 64, 8);
  expect(1536, 7168, 128, 64, 4);
  expect(2048, 4096, 64, 64, 4);
  expect(16, 128, 40, 64, 1);
}

TEST(ManyPlan, TakesWhatIsLeftOfWholeRoundsByItself) {
  // 28 pieces of work for each 256 rows of x, 66 at a time.
  const ManyLaunches two = plan_many_launches(7168, 7168, 2048, 132);
  EXPECT_EQ(two.rows, 7 * 256);
  EXPECT_EQ(two.first.rows, 256);
  EXPECT_LT(two.cost, plan_many_rows(7168, 7168, 2048, 132).cost);
  for (const std::int64_t m : {40, 256, 512, 1024, 4096})
    EXPECT_EQ(plan_many_launches(7168, 7168, m, 132).rows, m);
}

TEST_P(Gemm, ManyRowsInTwoLaunches) {
  constexpr std::int64_t kN = 1024, kK = 256, kM = 4500;
  if (GetParam() != Format::kQ4_K) GTEST_SKIP() << "one format is enough";
  if (!has_many_rows(GetParam()) || plan_many_launches(kN, kK, kM, info_.n_sms).rows == kM)
    GTEST_SKIP() << "one launch on this device";
  expect_product(Weights(GetParam(), kN, kK, 48), kM, Path::kGemm, Type::kBF16, Type::kBF16, 0x3p-9,
                 true, info_, nullptr);
}

TEST_P(Gemm, ManyRows) {
  Status status = Status::kOk;
  const auto blas = BlasLt::open(&status);
  if (blas == nullptr) GTEST_SKIP() << status_text(status);
  for (const Type y : {Type::kF32, Type::kBF16}) {
    const Weights w(GetParam(), 208, 256, 17);
    const double tolerance = has_many_rows(GetParam()) ? 0x3p-9 : 0x1p-8;
    expect_product(w, 100, Path::kGemm, Type::kBF16, y, tolerance, true, info_, blas.get());
    expect_product(w, 100, Path::kPortable, Type::kBF16, y, tolerance, true, info_, blas.get());
  }
}

std::vector<Format> all_formats() {
  return {
#define TILE(id) Format::id,
#include "kernels/cuda/gemm/kernels.inc"
#undef TILE
  };
}

INSTANTIATE_TEST_SUITE_P(Formats, Gemm, ::testing::ValuesIn(all_formats()), [](const auto& param) {
  return std::string(formats::traits(param.param).name);
});

TEST(GemmPlans, ChangeAtPlannedRows) {
  DeviceInfo device;
  device.n_sms = 132;
  device.shared_bytes = 227 * 1024;
  for (const Format format : all_formats()) {
    const auto* kernels = find_tile_kernels(format);
    std::int64_t begin = 1;
    for (const std::int64_t end : kPlannedRows) {
      const SkinnyPlan want = kernels->plan(257, 8192, end, device);
      for (std::int64_t m = begin; m <= end; ++m) {
        const SkinnyPlan plan = kernels->plan(257, 8192, m, device);
        EXPECT_EQ(plan.shared_bytes, want.shared_bytes) << m;
        EXPECT_EQ(plan.workspace_bytes, want.workspace_bytes) << m;
      }
      begin = end + 1;
    }
  }
}

// Cards for workstations have less shared memory than those for servers. Plans need no GPU.
TEST(GemmPlans, FitSharedMemory) {
  DeviceInfo card;
  card.n_sms = 84;
  card.l2_bytes = std::size_t{6} << 20;
  card.shared_bytes = 99 * 1024;
  for (const Format format : all_formats()) {
    for (const std::int64_t k : {4096, 28672, 53248}) {
      for (const std::int64_t m : {1, 8, 16, 32}) {
        for (const std::int64_t row_tiles : {8, 9504}) {
          const SkinnyPlan plan = find_tile_kernels(format)->plan(row_tiles, k, m, card);
          EXPECT_LE(plan.shared_bytes, card.shared_bytes)
              << formats::traits(format).name << ": " << k << ", " << m << ", " << row_tiles;
        }
      }
    }
  }
}

using GemmOnce = OnDevice;

/// Σ w·x of one row of weights, and max|w| · Σ|x|.
std::pair<double, double> definition(const Weights& w, std::int64_t row, const float* x) {
  double want = 0.0, inputs = 0.0;
  for (std::int64_t j = 0; j < w.k; ++j) {
    want += double{x[j]} * w.values[static_cast<std::size_t>(row * w.k + j)];
    inputs += std::fabs(x[j]);
  }
  return {want, w.row_max(row) * inputs};
}

void expect_siblings(std::int64_t m, Format odd, const DeviceInfo& info, BlasLt* blas) {
  const std::int64_t k = 1024;
  const Weights weights[] = {{Format::kQ4_K, 80, k, 1},
                             {Format::kQ6_K, 21, k, 2},
                             {Format::kQ4_K, 33, k, 3},
                             {odd, 2117, k, 4}};
  const std::vector<float> x = rounded(gaussian(m * k, 5)), bias = gaussian(2117, 6);
  const Device<std::uint16_t> x_device(as_bf16(x));
  const Device<float> bias_device(bias);
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<std::unique_ptr<Device<float>>> y;
  SiblingsArgs args;
  for (const Weights& w : weights) {
    packed.push_back(std::make_unique<Packed>(w));
    y.push_back(std::make_unique<Device<float>>(m * w.n));
    GemmArgs& product = args.products[args.count++];
    product = {packed.back()->matrix, x_device.get(), Type::kBF16, k, m,
               y.back()->get(),       Type::kF32,     w.n};
    if (args.count != 3) product.bias = bias_device.get();
  }
  Device<std::byte> workspace(static_cast<std::int64_t>(gemm_siblings_workspace(args, info)));
  args.products[0].workspace = workspace.get();
  args.products[0].workspace_bytes = workspace.bytes();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(gemm_siblings(args, info, blas, nullptr), Status::kOk) << device_error_text();
  for (std::size_t p = 0; p < y.size(); ++p) {
    const Weights& w = weights[p];
    const std::vector<float> got = y[p]->host();
    Compare compare("sibling " + std::to_string(p) + " m " + std::to_string(m));
    for (std::int64_t i = 0; i < m * w.n; ++i) {
      const std::int64_t row = i % w.n;
      const auto [want, size] = definition(w, row, x.data() + i / w.n * k);
      const double more = p == 2 ? 0.0 : bias[static_cast<std::size_t>(row)];
      compare.value(got[static_cast<std::size_t>(i)], want + more,
                    (m > kSkinnyRows ? 0x1p-8 : 8e-6) * size + 1e-6, i);
    }
  }
}

TEST_F(GemmOnce, SiblingsWithBias) {
  // Two formats that have a kernel for both, and three.
  for (const Format odd : {Format::kQ6_K, Format::kQ4_K, Format::kF32}) {
    for (const std::int64_t m : {1, 2, 16, 32, 33}) expect_siblings(m, odd, info_, nullptr);
  }
  Status status = Status::kOk;
  if (const auto blas = BlasLt::open(&status)) expect_siblings(80, Format::kF32, info_, blas.get());
}

TEST_F(GemmOnce, OneRowOfMatricesThatBlocksShare) {
  const auto check = [&](Format format, std::int64_t n, std::int64_t k) {
    expect_product(Weights(format, n, k, 23), 1, Path::kGemm, Type::kBF16, Type::kF32, 8e-6, false,
                   info_, nullptr);
  };
  for (const std::int64_t n : {2112, 2117, 5003}) {
    check(Format::kQ4_K, n, 768);
    check(Format::kQ6_K, n, 512);
  }
  check(Format::kIQ4_XS, 2117, 256);
  check(Format::kQ4_K, 40, 90112);   // x that shared memory does not hold
  check(Format::kQ8_0, 140000, 64);  // more row tiles than a block's shared memory has sums for
}

// Blocks with many groups of row tiles, groups that several warps share, and parts of k.
TEST_F(GemmOnce, FewRowsOfMatricesThatBlocksShare) {
  const auto check = [&](Format format, std::int64_t m, std::int64_t n, std::int64_t k) {
    expect_product(Weights(format, n, k, 29), m, Path::kGemm, Type::kBF16, Type::kF32, 8e-6, false,
                   info_, nullptr);
  };
  for (const std::int64_t m : {2, 9, 31}) {
    check(Format::kQ4_K, m, 2117, 768);
    check(Format::kQ6_K, m, 5003, 512);
    check(Format::kIQ4_XS, m, 9000, 256);
    check(Format::kI4_128, m, 2112, 1408);
    check(Format::kF8_E4M3_B128, m, 40, 20480);
  }
}

// Each product reads what the one before wrote, and its blocks may be there before that has ended.
TEST_F(GemmOnce, OverlappedLaunchesSeeWhatWasWritten) {
  const std::int64_t k = 1024;
  const Weights w(Format::kQ4_K, k, k, 31);
  const Packed packed(w);
  const Device<std::uint16_t> first(as_bf16(gaussian(k, 3)));
  Device<std::uint16_t> a(k), b(k);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const auto chain = [&](bool synchronise) {
    GemmArgs args{packed.matrix, first.get(), Type::kBF16, k, 1, a.get(), Type::kBF16, k};
    for (int i = 0; i < 200; ++i) {
      args.y = i % 2 == 0 ? a.get() : b.get();
      EXPECT_EQ(gemm(args, info_, nullptr, nullptr), Status::kOk);
      if (synchronise) {
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      }
      args.x = args.y;
    }
    return b.host();
  };
  const std::vector<std::uint16_t> want = chain(true);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(chain(false), want);
}

TEST_F(GemmOnce, RefusesWhatItCannotDo) {
  EXPECT_FALSE(has_gemm(Format::kIQ1_S));
  EXPECT_EQ(pack(Format::kIQ1_S, nullptr, 16, 256, nullptr, nullptr), Status::kUnsupported);
  EXPECT_EQ(pack(Format::kQ4_K, nullptr, 16, 255, nullptr, nullptr), Status::kBadArgument);
  const Weights w(Format::kIQ4_XS, 64, 512, 1);
  const Packed packed(w);
  const Device<std::uint16_t> x(100 * w.k);
  Device<float> y(100 * w.n);
  GemmArgs args{packed.matrix, x.get(), Type::kBF16, w.k, 100, y.get(), Type::kF32, w.n};
  EXPECT_EQ(gemm(args, info_, nullptr, nullptr), Status::kNoLibrary);
  args.y_stride = w.n - 1;
  EXPECT_EQ(gemm(args, info_, nullptr, nullptr), Status::kBadArgument);
}

TEST_F(GemmOnce, ManyRowsInSlabs) {
  Status status = Status::kOk;
  const auto blas = BlasLt::open(&status);
  if (blas == nullptr) GTEST_SKIP() << status_text(status);
  DeviceInfo small = info_;
  small.l2_bytes = 0;  // slabs of the least size, 512 rows
  expect_product(Weights(Format::kIQ4_XS, 1100, 256, 19), 70, Path::kGemm, Type::kBF16, Type::kF32,
                 0x1p-8, true, small, blas.get());
}

TEST_F(GemmOnce, RunsInsideAGraph) {
  const Weights w(Format::kQ4_K, 40, 4096, 2);
  const Packed packed(w);
  const Device<std::uint16_t> x(as_bf16(gaussian(w.k, 4)));
  Device<float> eager(w.n), replayed(w.n);
  Device<std::byte> workspace(static_cast<std::int64_t>(gemm_workspace(packed.matrix, 1, info_)));
  GemmArgs args{packed.matrix, x.get(), Type::kBF16, w.k, 1, eager.get(), Type::kF32, w.n};
  args.workspace = workspace.get();
  args.workspace_bytes = workspace.bytes();
  ASSERT_EQ(gemm(args, info_, nullptr, nullptr), Status::kOk);
  const std::vector<float> want = eager.host();

  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  args.y = replayed.get();
  EXPECT_EQ(gemm(args, info_, nullptr, stream), Status::kOk);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(replayed.host(), want);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace kt::kernels::cuda
