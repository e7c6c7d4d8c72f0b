// Latents stored to a scattered cache, and products of all heads, against loops in double
// precision: few rows and many, weights as they are and transposed, rows of x in pages, tails
// turned and copied, and the slow twin.
//
// Bound: f32 sums and a rounded result, 2^-8 · Σ |w·x|.
#include "kernels/cuda/attention/latent.h"

#include "base/test_random.h"
#include "kernels/cuda/attention/test_cache.h"

namespace kt::kernels::cuda {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Case {
  std::int64_t m, n_heads, n, k, tail;
  bool transposed = false, paged = false, shared_row = false, turned = true;
};

std::vector<float> angles(std::int64_t n, bool sine) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i)
    out.push_back(sine ? std::sin(0.1f * static_cast<float>(i))
                       : std::cos(0.1f * static_cast<float>(i)));
  return out;
}

struct Inputs {
  explicit Inputs(const Case& c)
      : n_rows(c.paged ? (c.m + kPageLen - 1) / kPageLen * kPageLen : c.m),
        x_heads(c.shared_row ? 1 : c.n_heads),
        w(rounded(gaussian(c.n_heads * c.n * c.k, 1))),
        x(rounded(gaussian(n_rows * x_heads * (c.k + c.tail), 2))),
        cos(angles(c.m * c.tail / 2, false)),
        sin(angles(c.m * c.tail / 2, true)) {
    for (std::int64_t p = n_rows / kPageLen; p > 0; --p)
      pages.push_back(static_cast<std::int32_t>(p - 1));  // backwards
    pages.push_back(0);
  }
  std::int64_t n_rows, x_heads;
  std::vector<float> w, x, cos, sin;
  std::vector<std::int32_t> pages;
};

void expect_products(const Case& c, const Inputs& in, const std::vector<float>& y) {
  Compare compare("head products, " + std::to_string(c.m) + " rows, " + std::to_string(c.n) + "·" +
                  std::to_string(c.k) + (c.transposed ? " transposed" : ""));
  const std::int64_t width = c.k + c.tail, half = c.tail / 2;
  for (std::int64_t i = 0; i < c.m * c.n_heads; ++i) {
    const std::int64_t row = i / c.n_heads, head = i % c.n_heads;
    const std::int64_t from =
        c.paged ? in.pages[index(row / kPageLen)] * kPageLen + row % kPageLen : row;
    const float* x = in.x.data() + (from * in.x_heads + (c.shared_row ? 0 : head)) * width;
    const float* w = in.w.data() + head * c.n * c.k;
    const std::int64_t to = i * (c.n + c.tail);
    for (std::int64_t n = 0; n < c.n; ++n) {
      double sum = 0.0, size = 0.0;
      for (std::int64_t k = 0; k < c.k; ++k) {
        const double v = double{x[k]} * w[c.transposed ? k * c.n + n : n * c.k + k];
        sum += v;
        size += std::fabs(v);
      }
      compare.value(y[index(to + n)], sum, 0x1p-8 * size, to + n);
    }
    for (std::int64_t p = 0; p < half; ++p) {
      const double a = x[c.k + 2 * p], b = x[c.k + 2 * p + 1];
      const double cos = c.turned ? in.cos[index(row * half + p)] : 1.0;
      const double sin = c.turned ? in.sin[index(row * half + p)] : 0.0;
      const double bound = 0x1p-8 * (std::fabs(a) + std::fabs(b));
      const std::int64_t at = to + c.n + 2 * p;
      compare.value(y[index(at)], a * cos - b * sin, bound, at);
      compare.value(y[index(at + 1)], b * cos + a * sin, bound, at + 1);
    }
  }
}

void run_case(const Case& c, bool reference = false) {
  const Inputs in(c);
  const Device<std::uint16_t> w(as_bf16(in.w)), x(as_bf16(in.x));
  const Device<float> cos(in.cos), sin(in.sin);
  const Device<std::int32_t> pages(in.pages);
  Device<std::uint16_t> y(c.m * c.n_heads * (c.n + c.tail));
  HeadProductsArgs args;
  args.w = w.get();
  args.transposed = c.transposed;
  args.n_heads = c.n_heads;
  args.n = c.n;
  args.k = c.k;
  args.x = x.get();
  args.x_row_stride = in.x_heads * (c.k + c.tail);
  args.x_head_stride = c.shared_row ? 0 : c.k + c.tail;
  args.pages = c.paged ? pages.get() : nullptr;
  args.y = y.get();
  args.y_row_stride = c.n_heads * (c.n + c.tail);
  args.y_head_stride = c.n + c.tail;
  args.m = c.m;
  args.tail = c.tail;
  args.cos = c.turned ? cos.get() : nullptr;
  args.sin = sin.get();
  const Status status =
      reference ? head_products_reference(args, nullptr) : head_products(args, nullptr);
  ASSERT_EQ(status, Status::kOk) << status_text(status) << ": " << device_error_text();
  expect_products(c, in, as_floats(y.host()));
}

using HeadProducts = OnDevice;

TEST_F(HeadProducts, FewRows) {
  for (const std::int64_t m : {1, 2, 8, 9, 16, 17, 32}) {
    run_case({m, 5, 512, 128, 64});  // queries to latents
    run_case({m, 5, 128, 512, 0});   // latents to values
  }
}

TEST_F(HeadProducts, ManyRows) {
  for (const std::int64_t m : {33, 128, 200}) {
    run_case({m, 3, 512, 128, 64});
    run_case({m, 3, 128, 512, 0});
  }
}

TEST_F(HeadProducts, SizesThatFillNoTile) {
  for (const std::int64_t m : {1, 31, 50}) {
    run_case({m, 4, 72, 40, 16});
    run_case({m, 4, 8, 264, 8});
    run_case({m, 2, 40, 8, 0});
  }
}

TEST_F(HeadProducts, KeysAndValuesOfCachedLatents) {
  for (const std::int64_t m : {7, 64, 300}) {
    Case keys{m, 3, 128, 512, 64, true, true, true, false};
    run_case(keys);
    run_case({m, 3, 40, 72, 16, true, true, true, false});
    keys.transposed = false;
    keys.tail = 0;
    run_case(keys);
  }
}

TEST_F(HeadProducts, Reference) {
  run_case({9, 3, 72, 40, 16}, true);
  run_case({70, 2, 40, 72, 16, true, true, true, false}, true);
}

TEST_F(HeadProducts, RefusesWhatItCannotDo) {
  HeadProductsArgs args;
  args.n_heads = args.m = 1;
  args.n = 8;
  args.k = 12;
  EXPECT_EQ(head_products(args, nullptr), Status::kBadArgument);
  args.k = 8;
  args.tail = 1;
  EXPECT_EQ(head_products(args, nullptr), Status::kBadArgument);
}

using StoreLatents = OnDevice;

void store_case(bool normed_before, CacheType type) {
  const std::int64_t rank = 72, rope = 16, width = rank + rope, half = rope / 2;
  const std::vector<std::int32_t> pages = {3, 1, 0, 2};
  const std::vector<SequenceItem> items = {{0, 3, 62, 0}, {3, 1, 5, 1}};
  const std::vector<float> x = rounded(gaussian(4 * width, 1)), weight = gaussian(rank, 2);
  const std::vector<float> cos = angles(4 * half, false), sin = angles(4 * half, true);
  const Device<std::uint16_t> x_device(as_bf16(x));
  const Device<float> weight_device(weight), cos_device(cos), sin_device(sin);
  const Device<std::int32_t> pages_device(pages);
  const Device<SequenceItem> items_device(items);
  Device<std::uint8_t> cache(4 * kPageLen * width * cache_bytes(type));
  StoreLatentsArgs args;
  args.x = x_device.get();
  args.weight = normed_before ? nullptr : weight_device.get();
  args.rank = rank;
  args.rope = rope;
  args.cos = cos_device.get();
  args.sin = sin_device.get();
  args.cache = {cache.get(), width, width, type, 4};
  args.table = {pages_device.get(), 2};
  args.items = items_device.get();
  args.n_items = 2;
  args.max_item_rows = 3;
  ASSERT_EQ(store_latents(args, nullptr), Status::kOk);
  const std::vector<float> got = cached_floats(cache.host(), type);
  std::int64_t n_written = 0;
  for (const float v : got) n_written += !std::isnan(v);
  EXPECT_EQ(n_written, 4 * width);
  const auto [part, least] = cache_error(type);
  Compare compare("stored latents");
  const std::int64_t rows[] = {3 * kPageLen + 62, 3 * kPageLen + 63, 1 * kPageLen, 5};
  for (std::int64_t r = 0; r < 4; ++r) {
    const float* from = x.data() + r * width;
    const float* to = got.data() + rows[r] * width;
    double squares = 0.0;
    for (std::int64_t i = 0; i < rank; ++i) squares += double{from[i]} * from[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(rank) + 1e-6);
    for (std::int64_t i = 0; i < rank; ++i) {
      const double want = normed_before ? from[i] : from[i] * scale * weight[index(i)];
      compare.value(to[i], want, part * std::fabs(want) + least, r * width + i);
    }
    for (std::int64_t p = 0; p < half; ++p) {
      const double a = from[rank + 2 * p], b = from[rank + 2 * p + 1];
      const double c = cos[index(r * half + p)], s = sin[index(r * half + p)];
      const double bound = part * (std::fabs(a) + std::fabs(b)) + least;
      compare.value(to[rank + 2 * p], a * c - b * s, bound, r * width + rank + 2 * p);
      compare.value(to[rank + 2 * p + 1], b * c + a * s, bound, r * width + rank + 2 * p + 1);
    }
  }
}

TEST_F(StoreLatents, NormsTurnsAndWritesToPages) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kE4M3}) {
    for (const bool normed_before : {false, true}) store_case(normed_before, type);
  }
}

}  // namespace
}  // namespace kt::kernels::cuda
