// Heads on their way to attention against loops in double precision, and attention that prepares
// its heads against the two steps one after the other.
//
// Bound: one rounding, to bf16 2^-8 of what is added, to E4M3 2^-4.
#include <numeric>

#include "base/test_random.h"
#include "kernels/cuda/attention/test_cache.h"

namespace kt::kernels::cuda {
namespace {

using Heads = OnDevice;

/// Norm, rotation and the place in the cache, in double precision.
void expect_prepared(CacheType type) {
  const std::vector<std::int32_t> pages = {3, 1, 0, 2};
  const std::vector<SequenceItem> items = {{0, 3, 62, 0}, {3, 1, 5, 1}};
  const std::int64_t rows[] = {3 * kPageLen + 62, 3 * kPageLen + 63, 1 * kPageLen + 0,
                               0 * kPageLen + 5};
  const Device<std::int32_t> pages_device(pages);
  const Device<SequenceItem> items_device(items);
  for (const std::int64_t d : {24, 64, 128, 512}) {
    for (const bool norm : {true, false}) {
      const std::int64_t n_heads = 6, n_kv = 2, n_rows = 4;
      const std::vector<float> q = rounded(gaussian(n_rows * n_heads * d, 1)),
                               k = rounded(gaussian(n_rows * n_kv * d, 2)),
                               v = rounded(gaussian(n_rows * n_kv * d, 3)),
                               q_weight = gaussian(d, 4), k_weight = gaussian(d, 5),
                               cos = gaussian(n_rows * d / 2, 6), sin = gaussian(n_rows * d / 2, 7);
      Device<std::uint16_t> q_device(as_bf16(q));
      Device<std::uint8_t> k_cache(4 * kPageLen * n_kv * d * cache_bytes(type)),
          v_cache(4 * kPageLen * n_kv * d * cache_bytes(type));
      const Device<std::uint16_t> k_device(as_bf16(k)), v_device(as_bf16(v));
      const Device<float> qw(q_weight), kw(k_weight), c(cos), s(sin);
      HeadsArgs args;
      args.q = q_device.get();
      args.k = k_device.get();
      args.v = v_device.get();
      args.q_stride = n_heads * d;
      args.k_stride = args.v_stride = n_kv * d;
      args.n_heads = n_heads;
      args.n_kv_heads = n_kv;
      args.d = d;
      if (norm) args.q_weight = qw.get();
      if (norm) args.k_weight = kw.get();
      args.eps = 1e-5f;
      args.cos = c.get();
      args.sin = s.get();
      args.k_cache = {k_cache.get(), n_kv * d, d, type};
      args.v_cache = {v_cache.get(), n_kv * d, d, type};
      args.table = {pages_device.get(), 2};
      args.items = items_device.get();
      args.n_items = 2;
      args.max_item_rows = 3;
      ASSERT_EQ(prepare_heads(args, nullptr), Status::kOk) << device_error_text();
      Compare compare("heads of " + std::to_string(d));
      const auto expect = [&](const float* got, const float* x, const float* weight,
                              std::int64_t row, bool rotate, const CacheError& error) {
        double squares = 0.0;
        for (std::int64_t i = 0; i < d; ++i) squares += double{x[i]} * x[i];
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(d) + 1e-5);
        const auto value = [&](std::int64_t i) {
          return norm && rotate ? x[i] * scale * weight[i] : double{x[i]};
        };
        for (std::int64_t i = 0; i < d / 2; ++i) {
          const auto at = static_cast<std::size_t>(row * d / 2 + i);
          const double a = value(i), b = value(i + d / 2), co = rotate ? cos[at] : 1.0,
                       si = rotate ? sin[at] : 0.0;
          const double bound =
              error.part * (std::fabs(a) + std::fabs(b)) * (std::fabs(co) + std::fabs(si)) +
              error.least;
          compare.value(got[i], a * co - b * si, bound, i);
          compare.value(got[i + d / 2], b * co + a * si, bound, i);
        }
      };
      const std::vector<float> got_q = as_floats(q_device.host()),
                               got_k = cached_floats(k_cache.host(), type),
                               got_v = cached_floats(v_cache.host(), type);
      for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t h = 0; h < n_heads; ++h) {
          const std::int64_t at = (row * n_heads + h) * d;
          expect(got_q.data() + at, q.data() + at, q_weight.data(), row, true,
                 cache_error(CacheType::kBF16));
        }
        for (std::int64_t h = 0; h < n_kv; ++h) {
          const std::int64_t at = (row * n_kv + h) * d, to = (rows[row] * n_kv + h) * d;
          expect(got_k.data() + to, k.data() + at, k_weight.data(), row, true, cache_error(type));
          expect(got_v.data() + to, v.data() + at, nullptr, row, false, cache_error(type));
        }
      }
    }
  }
}

TEST_F(Heads, PreparesHeads) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kE4M3}) expect_prepared(type);
}

/// One launch that prepares the heads of decoding sequences gives what two give.
void expect_same_on_the_way(CacheType type) {
  const std::int64_t n_kv = 2, stride = 12;
  const std::vector<SequenceItem> items = {
      {0, 1, 0, 0}, {1, 1, 63, 1}, {2, 1, 64, 2}, {3, 1, 700, 3}, {4, 1, 17, 4}};
  const auto n_rows = static_cast<std::int64_t>(items.size());
  std::vector<std::int32_t> pages(static_cast<std::size_t>(n_rows * stride));
  std::iota(pages.rbegin(), pages.rend(), 0);
  const Device<std::int32_t> pages_device(pages);
  const Device<SequenceItem> items_device(items);
  for (const std::int64_t d : {64, 128, 256}) {
    for (const std::int64_t group : {1, 8, 12}) {
      for (const std::int64_t window : {0, 100}) {
        const std::int64_t n_heads = n_kv * group, n_cache = n_rows * stride * kPageLen * n_kv * d;
        const Device<std::uint16_t> q(as_bf16(gaussian(n_rows * n_heads * d, 1))),
            k(as_bf16(gaussian(n_rows * n_kv * d, 2))), v(as_bf16(gaussian(n_rows * n_kv * d, 3)));
        const Device<float> weight(gaussian(d, 4)), cos(gaussian(n_rows * d / 2, 5)),
            sin(gaussian(n_rows * d / 2, 6));
        const std::vector<std::uint8_t> cached = as_cache(gaussian(n_cache, 7), type);
        std::vector<std::vector<float>> results;
        for (const bool together : {true, false}) {
          const Device<std::uint16_t> own_q(q.host());
          const Device<std::uint8_t> k_cache(cached), v_cache(cached);
          Device<float> out(n_rows * n_heads * d);
          HeadsArgs heads;
          heads.q = own_q.get();
          heads.k = k.get();
          heads.v = v.get();
          heads.q_stride = n_heads * d;
          heads.k_stride = heads.v_stride = n_kv * d;
          heads.n_heads = n_heads;
          heads.n_kv_heads = n_kv;
          heads.d = d;
          heads.q_weight = heads.k_weight = weight.get();
          heads.cos = cos.get();
          heads.sin = sin.get();
          heads.k_cache = {k_cache.get(), n_kv * d, d, type, n_rows * stride};
          heads.v_cache = {v_cache.get(), n_kv * d, d, type, n_rows * stride};
          heads.table = {pages_device.get(), stride};
          heads.items = items_device.get();
          heads.n_items = n_rows;
          heads.max_item_rows = 1;
          AttentionArgs args;
          args.q = own_q.get();
          args.q_token_stride = n_heads * d;
          args.q_head_stride = d;
          args.k = heads.k_cache;
          args.v = heads.v_cache;
          args.table = heads.table;
          args.items = heads.items;
          args.n_items = args.n_rows = n_rows;
          args.max_item_rows = 1;
          args.max_keys = 701;
          args.n_heads = n_heads;
          args.n_kv_heads = n_kv;
          args.dim_qk = args.dim_v = d;
          args.scale = 0.1f;
          args.window = window;
          args.split_keys = window == 0 ? 256 : 1024;
          args.out = out.get();
          args.out_type = Type::kF32;
          Device<std::byte> workspace(static_cast<std::int64_t>(attention_workspace(args)));
          args.workspace = workspace.get();
          args.workspace_bytes = workspace.bytes();
          if (together) {
            ASSERT_EQ(attention_of_heads(heads, args, nullptr), Status::kOk);
          } else {
            ASSERT_EQ(prepare_heads(heads, nullptr), Status::kOk);
            ASSERT_EQ(attention(args, nullptr), Status::kOk);
          }
          results.push_back(out.host());
          for (const Device<std::uint8_t>* cache : {&k_cache, &v_cache})
            results.push_back(cached_floats(cache->host(), type));
        }
        for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(results[i], results[i + 3]) << d << " " << i;
      }
    }
  }
}

TEST_F(Heads, CachesInE4M3EndAtTheLargestAndKeepSubnormals) {
  const std::int64_t n_heads = 2, d = 24, n_rows = 4, n = n_rows * n_heads * d;
  const std::vector<std::int32_t> pages = {3, 1, 0, 2};
  const std::vector<SequenceItem> items = {{0, 3, 62, 0}, {3, 1, 5, 1}};
  std::vector<float> x = gaussian(n, 1);
  x[0] = 447.0f;
  x[1] = -1000.0f;  // beyond E4M3
  x[2] = 0.005f;    // among its subnormals
  x[3] = -0.0009f;  // below them
  x = rounded(x);
  const Device<std::uint16_t> x_device(as_bf16(x));
  Device<std::uint16_t> q_device(as_bf16(x));
  const Device<float> cos(std::vector<float>(n_rows * d / 2, 1.0f)),
      sin(std::vector<float>(n_rows * d / 2, 0.0f));
  const Device<std::int32_t> pages_device(pages);
  const Device<SequenceItem> items_device(items);
  for (const CacheType type : {CacheType::kBF16, CacheType::kE4M3}) {
    const std::int64_t bytes = 4 * kPageLen * n_heads * d * cache_bytes(type);
    Device<std::uint8_t> k_cache(bytes), v_cache(bytes);
    HeadsArgs args;
    args.q = q_device.get();
    args.k = args.v = x_device.get();
    args.q_stride = args.k_stride = args.v_stride = n_heads * d;
    args.n_heads = args.n_kv_heads = n_heads;
    args.d = d;
    args.cos = cos.get();
    args.sin = sin.get();
    args.k_cache = {k_cache.get(), n_heads * d, d, type};
    args.v_cache = {v_cache.get(), n_heads * d, d, type};
    args.table = {pages_device.get(), 2};
    args.items = items_device.get();
    args.n_items = 2;
    args.max_item_rows = 3;
    ASSERT_EQ(prepare_heads(args, nullptr), Status::kOk) << device_error_text();
    const std::vector<float> want = cached_floats(as_cache(x, type), type);
    const std::int64_t rows[] = {3 * kPageLen + 62, 3 * kPageLen + 63, 1 * kPageLen + 0,
                                 0 * kPageLen + 5};
    for (const Device<std::uint8_t>* cache : {&k_cache, &v_cache}) {
      const std::vector<float> got = cached_floats(cache->host(), type);
      EXPECT_EQ(std::count_if(got.begin(), got.end(), [](float v) { return !std::isnan(v); }), n);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at =
            static_cast<std::size_t>(rows[i / (n_heads * d)] * n_heads * d + i % (n_heads * d));
        EXPECT_EQ(got[at], want[static_cast<std::size_t>(i)]) << i;
      }
    }
  }
}

TEST_F(Heads, PreparesHeadsOnTheWay) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kE4M3}) expect_same_on_the_way(type);
}

}  // namespace
}  // namespace kt::kernels::cuda
