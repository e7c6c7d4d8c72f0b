// Attention over a scattered paged cache against loops in double precision: decode and prompts,
// grouped heads and MLA, windows, splits, several sequences of different lengths, caches in bf16
// and E4M3, other rows of the batch, which stay as they are; the portable forms beside the device's
// own, and the slow twin.
//
// Bound: weights are rounded to bf16, 2^-9 of each: 2^-7 · Σ weight · |v|.
#include "kernels/cuda/attention/attention.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/test_random.h"
#include "kernels/cuda/attention/test_cache.h"
#include "tensor/kv_view.h"

namespace kt::kernels::cuda {
namespace {

static_assert(kPageLen == tensor::kKvPageLen);

struct Case {
  std::int64_t dim_qk, dim_v, n_heads, n_kv_heads;
  std::vector<SequenceItem> items;  // row_begin and table are filled in
  std::int64_t split_keys = 0;      // 0: attention_split_keys()
  std::int64_t window = 0;
  CacheType type = CacheType::kBF16;
};

/// Caches in pages that lie in a random order, filled with values as they have them; other memory
/// is NaN.
struct Cache {
  Cache(const Case& c, std::int64_t max_keys) : stride((max_keys + kPageLen - 1) / kPageLen + 1) {
    const auto n_pages = static_cast<std::int64_t>(c.items.size()) * stride;
    pages.resize(static_cast<std::size_t>(n_pages));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), std::mt19937(5));
    const bool mla = c.dim_qk == 576;
    k_stride = c.n_kv_heads * c.dim_qk;
    v_stride = mla ? k_stride : c.n_kv_heads * c.dim_v;
    const auto random = [&](std::int64_t n, unsigned seed) {
      return cached_floats(as_cache(gaussian(n, seed), c.type), c.type);
    };
    k = random(n_pages * kPageLen * k_stride, 6);
    v = mla ? k : random(n_pages * kPageLen * v_stride, 7);
    // What lies behind the last key of a sequence must not matter, NaN neither.
    for (std::size_t s = 0; s < c.items.size(); ++s) {
      for (std::int64_t p = c.items[s].position + c.items[s].n_rows; p < stride * kPageLen; ++p) {
        const std::int64_t row = at(static_cast<std::int64_t>(s), p);
        std::fill_n(k.begin() + row * k_stride, k_stride, std::nanf(""));
        if (!mla) std::fill_n(v.begin() + row * v_stride, v_stride, std::nanf(""));
      }
    }
    if (mla) v = k;
  }
  std::int64_t at(std::int64_t table, std::int64_t p) const {
    return pages[static_cast<std::size_t>(table * stride + p / kPageLen)] * kPageLen + p % kPageLen;
  }
  std::int64_t stride, k_stride = 0, v_stride = 0;
  std::vector<std::int32_t> pages;
  std::vector<float> k, v;
};

void expect_rows(const Case& c, const Cache& cache, const std::vector<float>& q,
                 const std::vector<float>& got, float scale, double tolerance) {
  Compare compare("attention " + std::to_string(c.dim_qk) + " " + std::to_string(c.n_heads) + "/" +
                  std::to_string(c.n_kv_heads) + " split " + std::to_string(c.split_keys) +
                  " window " + std::to_string(c.window) +
                  (c.type == CacheType::kE4M3 ? " E4M3" : ""));
  std::vector<double> out(static_cast<std::size_t>(c.dim_v)), size(out.size());
  for (const SequenceItem& item : c.items) {
    for (std::int64_t r = 0; r < item.n_rows; ++r) {
      for (std::int64_t h = 0; h < c.n_heads; ++h) {
        const std::int64_t position = item.position + r, kv = h / (c.n_heads / c.n_kv_heads);
        const std::int64_t begin =
            c.window > 0 ? std::max<std::int64_t>(position - c.window + 1, 0) : 0;
        const std::int64_t row = (item.row_begin + r) * c.n_heads + h;
        std::vector<double> w;
        double top = -1e300, total = 0.0;
        for (std::int64_t p = begin; p <= position; ++p) {
          const std::int64_t at = cache.at(item.table, p) * cache.k_stride + kv * c.dim_qk;
          double sum = 0.0;
          for (std::int64_t d = 0; d < c.dim_qk; ++d) {
            sum += double{q[static_cast<std::size_t>(row * c.dim_qk + d)]} *
                   cache.k[static_cast<std::size_t>(at + d)];
          }
          w.push_back(sum * scale);
          top = std::max(top, w.back());
        }
        for (double& v : w) total += v = std::exp(v - top);
        std::fill(out.begin(), out.end(), 0.0);
        std::fill(size.begin(), size.end(), 0.0);
        for (std::int64_t p = begin; p <= position; ++p) {
          const std::int64_t at = cache.at(item.table, p) * cache.v_stride +
                                  kv * (c.dim_qk == 576 ? c.dim_qk : c.dim_v);
          const double weight = w[static_cast<std::size_t>(p - begin)] / total;
          for (std::size_t d = 0; d < out.size(); ++d) {
            const double v = cache.v[static_cast<std::size_t>(at) + d];
            out[d] += weight * v;
            size[d] += weight * std::fabs(v);
          }
        }
        for (std::size_t d = 0; d < out.size(); ++d) {
          const std::int64_t i = row * c.dim_v + static_cast<std::int64_t>(d);
          compare.value(got[static_cast<std::size_t>(i)], out[d], tolerance * size[d] + 1e-6, i);
        }
      }
    }
  }
}

enum class Form : std::uint8_t { kDevice, kPortable, kSmall, kReference };

constexpr std::int64_t kBefore = 3, kBehind = 2;  // rows of other sequences in the batch
constexpr float kUntouched = 77.0f;

/// The result, after a comparison with loops.
std::vector<float> run_form(Case c, const DeviceInfo& info, Form form) {
  const bool reference = form == Form::kReference;
  AttentionArgs args;
  for (SequenceItem& item : c.items) {
    item.table = static_cast<std::int32_t>(&item - c.items.data());
    item.row_begin = static_cast<std::int32_t>(kBefore + args.n_rows);
    args.n_rows += item.n_rows;
    args.max_item_rows = std::max<std::int64_t>(args.max_item_rows, item.n_rows);
    args.max_keys = std::max<std::int64_t>(args.max_keys, item.position + item.n_rows);
  }
  const Cache cache(c, args.max_keys);
  const std::int64_t all_rows = kBefore + args.n_rows + kBehind, result = c.n_heads * c.dim_v;
  const std::vector<float> q = rounded(gaussian(all_rows * c.n_heads * c.dim_qk, 8));
  const Device<std::uint16_t> q_device(as_bf16(q));
  const Device<std::uint8_t> k(as_cache(cache.k, c.type)), v(as_cache(cache.v, c.type));
  const auto n_pages = static_cast<std::int64_t>(cache.pages.size());
  const Device<std::int32_t> pages(cache.pages);
  const Device<SequenceItem> items(c.items);
  Device<float> out(std::vector<float>(static_cast<std::size_t>(all_rows * result), kUntouched));
  args.first_row = kBefore;
  args.q = q_device.get() + kBefore * c.n_heads * c.dim_qk;
  args.q_token_stride = c.n_heads * c.dim_qk;
  args.q_head_stride = c.dim_qk;
  args.k = {k.get(), cache.k_stride, c.dim_qk, c.type, n_pages};
  args.v = {v.get(), cache.v_stride, c.dim_v, c.type, n_pages};
  args.table = {pages.get(), cache.stride};
  args.items = items.get();
  args.n_items = static_cast<std::int64_t>(c.items.size());
  args.n_heads = c.n_heads;
  args.n_kv_heads = c.n_kv_heads;
  args.dim_qk = c.dim_qk;
  args.dim_v = c.dim_v;
  args.scale = 1.0f / std::sqrt(static_cast<float>(c.dim_qk));
  args.window = c.window;
  args.out = out.get() + kBefore * result;
  args.out_type = Type::kF32;
  args.portable = form == Form::kPortable;
  args.small = form == Form::kSmall;
  args.split_keys = c.split_keys != 0 ? c.split_keys : attention_split_keys(args, info);
  Device<std::byte> workspace(static_cast<std::int64_t>(
      reference ? attention_reference_workspace(args) : attention_workspace(args)));
  args.workspace = workspace.get();
  args.workspace_bytes = workspace.bytes();
  const Status status = reference ? attention_reference(args, nullptr) : attention(args, nullptr);
  EXPECT_EQ(status, Status::kOk) << status_text(status) << ": " << device_error_text();
  std::vector<float> got = out.host();
  expect_rows(c, cache, q, got, args.scale, reference ? 1e-5 : 0x1p-7);
  EXPECT_EQ(std::count(got.begin(), got.end(), kUntouched), (kBefore + kBehind) * result);
  return got;
}

void run_case(const Case& c, const DeviceInfo& info) {
  run_form(c, info, Form::kDevice);
  run_form(c, info, Form::kPortable);
  run_form(c, info, Form::kSmall);
}

std::vector<SequenceItem> decode_items() {
  return {{0, 1, 0}, {0, 1, 63}, {0, 1, 64}, {0, 1, 700}, {0, 1, 1}};
}

class Attention : public OnDevice, public ::testing::WithParamInterface<std::pair<int, int>> {
 protected:
  std::int64_t qk() const { return GetParam().first; }
  std::int64_t v() const { return GetParam().second; }
};

TEST_P(Attention, Decode) {
  for (const std::int64_t split : {0, 64, 256, 1024}) {
    run_case({qk(), v(), 8, 2, decode_items(), split}, info_);
  }
  run_case({qk(), v(), 7, 1, decode_items()}, info_);
  run_case({qk(), v(), 3, 3, decode_items()}, info_);
  run_case({qk(), v(), 32, 1, decode_items(), 128}, info_);
}

TEST_P(Attention, Prompts) {
  const std::vector<SequenceItem> items = {{0, 130, 0}, {0, 1, 200}, {0, 17, 63}, {0, 64, 300}};
  for (const std::int64_t split : {0, 128, 1024}) run_case({qk(), v(), 4, 2, items, split}, info_);
  run_case({qk(), v(), 5, 1, items}, info_);
  run_case({qk(), v(), 3, 3, {{0, 333, 100}, {0, 65, 0}}}, info_);
}

TEST_P(Attention, Window) {
  for (const std::int64_t window : {1, 63, 64, 129}) {
    run_case({qk(), v(), 4, 2, decode_items(), 256, window}, info_);
    run_case({qk(), v(), 4, 2, {{0, 90, 0}, {0, 40, 200}}, 128, window}, info_);
    run_case({qk(), v(), 4, 2, {{0, 150, 300}}, 256, window}, info_);
  }
}

TEST_P(Attention, CacheInE4M3) {
  const auto run = [&](std::int64_t heads, std::int64_t kv_heads, std::vector<SequenceItem> items,
                       std::int64_t split, std::int64_t window = 0) {
    run_case({qk(), v(), heads, kv_heads, std::move(items), split, window, CacheType::kE4M3},
             info_);
  };
  for (const std::int64_t split : {0, 64, 256, 1024}) run(8, 2, decode_items(), split);
  run(7, 1, decode_items(), 0);
  run(32, 1, decode_items(), 128);
  const std::vector<SequenceItem> prompts = {{0, 130, 0}, {0, 1, 200}, {0, 17, 63}, {0, 64, 300}};
  for (const std::int64_t split : {0, 128, 1024}) run(4, 2, prompts, split);
  run(3, 3, {{0, 333, 100}, {0, 65, 0}}, 0);
  for (const std::int64_t window : {1, 63, 129}) {
    run(4, 2, decode_items(), 256, window);
    run(4, 2, {{0, 150, 300}, {0, 40, 20}}, 256, window);
  }
}

TEST_P(Attention, Reference) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kE4M3}) {
    run_form({qk(), v(), 4, 2, {{0, 5, 60}, {0, 1, 128}}, 64, 50, type}, info_, Form::kReference);
  }
}

INSTANTIATE_TEST_SUITE_P(Dims, Attention,
                         ::testing::Values(std::pair{64, 64}, std::pair{128, 128},
                                           std::pair{192, 128}, std::pair{256, 256}),
                         [](const auto& param) {
                           return std::to_string(param.param.first) + "_" +
                                  std::to_string(param.param.second);
                         });

using Mla = OnDevice;

TEST_F(Mla, Decode) {
  for (const std::int64_t split : {0, 64, 256, 1024})
    run_case({576, 512, 128, 1, decode_items(), split}, info_);
  run_case({576, 512, 16, 1, decode_items()}, info_);
  run_case({576, 512, 20, 1, decode_items(), 128}, info_);
}

TEST_F(Mla, SplitsInClusters) {
  // On Hopper up to 8 of a cluster, those of clusters by a launch; 40 sequences need no splits.
  for (const std::int64_t split : {128, 256, 512, 1024})
    run_case({576, 512, 128, 1, {{0, 1, 2900}, {0, 1, 70}}, split}, info_);
  std::vector<SequenceItem> many;
  for (int i = 0; i < 40; ++i) many.push_back({0, 1, 130 + i});
  for (const std::int64_t split : {0, 64}) run_case({576, 512, 64, 1, many, split}, info_);
}

TEST_F(Mla, FewTokens) {
  const std::vector<SequenceItem> items = {{0, 4, 500}, {0, 1, 3}, {0, 2, 62}, {0, 5, 125}};
  run_case({576, 512, 128, 1, items, 256}, info_);
  run_case({576, 512, 20, 1, items, 128}, info_);
}

TEST_F(Mla, Window) {
  for (const std::int64_t window : {1, 63, 64, 129})
    run_case({576, 512, 64, 1, {{0, 1, 700}, {0, 3, 200}, {0, 20, 0}}, 256, window}, info_);
}

TEST_F(Mla, Prompts) { run_case({576, 512, 16, 1, {{0, 33, 0}, {0, 9, 120}}}, info_); }

TEST_F(Mla, CacheInE4M3) {
  const auto run = [&](std::int64_t heads, std::vector<SequenceItem> items, std::int64_t split,
                       std::int64_t window = 0) {
    run_case({576, 512, heads, 1, std::move(items), split, window, CacheType::kE4M3}, info_);
  };
  for (const std::int64_t split : {0, 64, 256, 1024}) run(128, decode_items(), split);
  run(16, decode_items(), 0);
  run(20, {{0, 4, 500}, {0, 1, 3}, {0, 2, 62}, {0, 5, 125}}, 128);
  for (const std::int64_t window : {1, 64, 129})
    run(64, {{0, 1, 700}, {0, 3, 200}, {0, 20, 0}}, 256, window);
}

TEST_F(Mla, Reference) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kE4M3})
    run_form({576, 512, 4, 1, {{0, 3, 62}}, 64, 0, type}, info_, Form::kReference);
}

using AttentionOnce = OnDevice;

TEST_F(AttentionOnce, RefusesWhatItCannotDo) {
  EXPECT_FALSE(has_attention(80, 80));
  AttentionArgs args;
  args.dim_qk = args.dim_v = 80;
  EXPECT_EQ(attention(args, nullptr), Status::kUnsupported);
  args.dim_qk = args.dim_v = 128;
  EXPECT_EQ(attention(args, nullptr), Status::kBadArgument);
}

/// A row before the first key, as padding has, and one whose only key is NaN.
TEST_F(AttentionOnce, NoKeysAreZerosAndNaNStays) {
  for (const std::int64_t dim : {64, 128, 192, 256, 576}) {
    const bool mla = dim == 576;
    const std::int64_t dim_v = mla ? 512 : dim == 192 ? 128 : dim, n_heads = mla ? 32 : 8;
    for (const std::int64_t split : {64, 256}) {
      for (const std::int64_t n_rows : {1, 20}) {
        for (const Form form : {Form::kDevice, Form::kPortable, Form::kSmall}) {
          SCOPED_TRACE(fmt::format("{} split {} rows {} form {}", dim, split, n_rows,
                                   static_cast<int>(form)));
          const std::vector<SequenceItem> items = {
              {0, static_cast<std::int32_t>(n_rows), static_cast<std::int32_t>(-n_rows), 0},
              {static_cast<std::int32_t>(n_rows), 1, 190, 0}};
          std::vector<float> cache(static_cast<std::size_t>(4 * kPageLen * dim), 0.5f);
          cache[static_cast<std::size_t>(70 * dim)] = NAN;
          const Device<std::uint16_t> keys(as_bf16(cache)),
              q(as_bf16(gaussian((n_rows + 1) * n_heads * dim, 1)));
          const Device<std::int32_t> pages(std::vector<std::int32_t>{0, 1, 2, 3});
          const Device<SequenceItem> items_device(items);
          Device<float> out((n_rows + 1) * n_heads * dim_v);
          AttentionArgs args;
          args.q = q.get();
          args.q_token_stride = n_heads * dim;
          args.q_head_stride = dim;
          args.k = args.v = {keys.get(), dim, dim, CacheType::kBF16, 4};
          args.table = {pages.get(), 4};
          args.items = items_device.get();
          args.n_items = 2;
          args.n_rows = n_rows + 1;
          args.max_item_rows = n_rows;
          args.max_keys = 191;
          args.n_heads = n_heads;
          args.n_kv_heads = 1;
          args.dim_qk = dim;
          args.dim_v = dim_v;
          args.split_keys = split;
          args.out = out.get();
          args.out_type = Type::kF32;
          args.portable = form == Form::kPortable;
          args.small = form == Form::kSmall;
          Device<std::byte> workspace(static_cast<std::int64_t>(attention_workspace(args)));
          args.workspace = workspace.get();
          args.workspace_bytes = workspace.bytes();
          ASSERT_EQ(attention(args, nullptr), Status::kOk) << device_error_text();
          const std::vector<float> got = out.host();
          for (std::int64_t i = 0; i < n_rows * n_heads * dim_v; ++i)
            ASSERT_EQ(got[static_cast<std::size_t>(i)], 0.0f) << i;
          EXPECT_TRUE(std::isnan(got.back()));
        }
      }
    }
  }
}

/// Every code, in the pages that sequences see and in no others.
TEST_F(AttentionOnce, WidensCaches) {
  const std::int64_t row = 48, n_pages = 6;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_pages * kPageLen * row));
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i + i / 256);
  const Device<std::uint8_t> cache(codes);
  const Device<std::int32_t> pages({4, 1, 3, 2, 5, 0});
  const Device<SequenceItem> items({{0, 3, 62, 0}, {3, 2, 140, 1}});
  Device<std::uint16_t> out(n_pages * kPageLen * row);
  WidenArgs args{{cache.get(), row, row, CacheType::kE4M3, n_pages},
                 out.get(),
                 {pages.get(), 3},
                 items.get(),
                 2,
                 142,
                 13};
  EXPECT_EQ(out.bytes(), widened_bytes(args.from));
  ASSERT_EQ(widen_cache(args, nullptr), Status::kOk) << device_error_text();
  const std::vector<float> got = as_floats(out.host());
  const std::set<std::int64_t> seen = {4, 1, 5, 0};  // the window of the second begins at 128
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const float want = fp8_e4m3_to_f32(codes[i]);
    if (std::isnan(want) || !seen.contains(static_cast<std::int64_t>(i) / (kPageLen * row))) {
      EXPECT_TRUE(std::isnan(got[i])) << i;
    } else {
      EXPECT_EQ(got[i], want) << i;
    }
  }
}

}  // namespace
}  // namespace kt::kernels::cuda
