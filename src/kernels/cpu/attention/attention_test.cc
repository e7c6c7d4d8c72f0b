#include "kernels/cpu/attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/cpu.h"
#include "base/half.h"

namespace kt::kernels::attention {
namespace {

using formats::Format;

struct Case {
  std::int64_t n_tokens, n_heads, position, dim_qk, dim_v, window;
  bool latent;  // v is the start of k's rows
  Format format;
};

// A paged cache of one stream with shuffled pages, filled through the kernel's own store().
struct Cache {
  tensor::KvStreamView view;
  std::vector<std::byte> memory;
  std::vector<float> values;  // [n, n_heads * dim] as stored, decoded
};

Cache make_cache(const Kernel& kernel, Format format, std::int64_t n, std::int64_t n_heads,
                 std::int64_t dim, const std::vector<std::int32_t>& pages, std::mt19937& rng) {
  Cache c;
  c.view.format = format;
  c.view.n_heads = n_heads;
  c.view.dim = dim;
  c.view.head_bytes = formats::row_bytes(format, dim);
  c.view.row_bytes = c.view.head_bytes * static_cast<std::size_t>(n_heads);
  c.memory.resize(c.view.row_bytes * pages.size() * tensor::kKvPageLen);
  c.view.base = c.memory.data();
  c.values.resize(static_cast<std::size_t>(n * n_heads * dim));
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<std::size_t>(dim));
  for (std::int64_t p = 0; p < n; ++p) {
    for (std::int64_t h = 0; h < n_heads; ++h) {
      for (float& x : v) x = normal(rng);
      std::byte* at = c.view.at(pages.data(), p, h);
      kernel.store(format, v.data(), dim, at);
      formats::traits(format).decode(at, c.values.data() + (p * n_heads + h) * dim, dim);
    }
  }
  return c;
}

std::vector<double> naive(const Args& a, const Cache& k, const Cache& v) {
  std::vector<double> out;
  for (std::int64_t t = 0; t < a.n_tokens; ++t) {
    for (std::int64_t h = 0; h < a.n_heads; ++h) {
      const std::int64_t position = a.position + t;
      const std::int64_t lo = a.window > 0 ? std::max<std::int64_t>(0, position - a.window + 1) : 0;
      std::vector<double> s;
      double largest = -1e300, sum = 0;
      for (std::int64_t p = lo; p <= position; ++p) {
        double dot = 0;
        for (std::int64_t d = 0; d < a.dim_qk; ++d) {
          dot += static_cast<double>(a.q[t * a.q_token_stride + h * a.q_head_stride + d]) *
                 static_cast<double>(k.values[static_cast<std::size_t>(
                     (p * k.view.n_heads + a.kv_head) * k.view.dim + d)]);
        }
        s.push_back(dot * static_cast<double>(a.scale));
        largest = std::max(largest, s.back());
      }
      for (double& x : s) sum += x = std::exp(x - largest);
      for (std::int64_t d = 0; d < a.dim_v; ++d) {
        double o = 0;
        for (std::int64_t p = lo; p <= position; ++p) {
          o += s[static_cast<std::size_t>(p - lo)] / sum *
               static_cast<double>(v.values[static_cast<std::size_t>(
                   (p * v.view.n_heads + a.kv_head) * v.view.dim + d)]);
        }
        out.push_back(o);
      }
    }
  }
  return out;
}

class AttentionTest : public testing::TestWithParam<const char*> {
 protected:
  const Kernel& kernel() const {
    for (const Kernel& k : kernels()) {
      if (std::string(k.name) == GetParam()) return k;
    }
    return kernels().back();
  }
};

TEST_P(AttentionTest, EqualsSoftmaxInDouble) {
  if ((detect_caps() & kernel().caps) != kernel().caps) GTEST_SKIP() << "this CPU lacks the ISA";
  const Case cases[] = {
      {1, 1, 0, 8, 8, 0, false, Format::kF32},      {1, 4, 200, 64, 64, 0, false, Format::kF32},
      {7, 3, 60, 64, 64, 0, false, Format::kF16},   {10, 3, 127, 24, 40, 0, false, Format::kF32},
      {1, 32, 63, 576, 512, 0, true, Format::kF32}, {2, 5, 64, 80, 64, 0, true, Format::kBF16},
      {8, 4, 150, 32, 32, 9, false, Format::kF32},  {8, 4, 150, 32, 32, 100, false, Format::kQ8_0},
      {4, 1, 3, 96, 64, 2, false, Format::kF16},
  };
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  for (const Case& c : cases) {
    const std::int64_t n = c.position + c.n_tokens;
    const std::vector<std::int32_t> pages = {5, 2, 0, 3, 4, 1};
    const std::int64_t n_kv = c.latent ? 1 : 2;
    const Cache k = make_cache(kernel(), c.format, n, n_kv, c.dim_qk, pages, rng);
    Cache v = c.latent ? Cache{k.view, {}, k.values}
                       : make_cache(kernel(), c.format, n, n_kv, c.dim_v, pages, rng);
    std::vector<float> q(static_cast<std::size_t>(c.n_tokens * c.n_heads * c.dim_qk));
    for (float& x : q) x = normal(rng);
    std::vector<float> out(static_cast<std::size_t>(c.n_tokens * c.n_heads * c.dim_v), NAN);
    std::vector<float> scratch(static_cast<std::size_t>(scratch_floats(c.dim_qk, c.dim_v)));
    Args a;
    a.q = q.data();
    a.q_token_stride = c.n_heads * c.dim_qk;
    a.q_head_stride = c.dim_qk;
    a.n_tokens = c.n_tokens;
    a.n_heads = c.n_heads;
    a.position = c.position;
    a.k = k.view;
    a.v = v.view;
    a.pages = pages.data();
    a.kv_head = n_kv - 1;
    a.dim_qk = c.dim_qk;
    a.dim_v = c.dim_v;
    a.scale = 0.3f;
    a.window = c.window;
    a.out = out.data();
    a.out_token_stride = c.n_heads * c.dim_v;
    a.out_head_stride = c.dim_v;
    a.scratch = scratch.data();
    kernel().run(a);
    const std::vector<double> want = naive(a, k, v);
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(out[i], want[i], 2e-5)
          << "value " << i << ", dims " << c.dim_qk << "/" << c.dim_v;
    }
  }
}

TEST_P(AttentionTest, ARowDoesNotDependOnItsBatch) {
  if ((detect_caps() & kernel().caps) != kernel().caps) GTEST_SKIP() << "this CPU lacks the ISA";
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  const std::vector<std::int32_t> pages = {1, 0, 2};
  const std::int64_t dim = 48, n_heads = 3, n_tokens = 9, position = 70;
  const Cache k = make_cache(kernel(), Format::kF16, position + n_tokens, 1, dim, pages, rng);
  const Cache v = make_cache(kernel(), Format::kF16, position + n_tokens, 1, dim, pages, rng);
  std::vector<float> q(static_cast<std::size_t>(n_tokens * n_heads * dim));
  for (float& x : q) x = normal(rng);
  std::vector<float> scratch(static_cast<std::size_t>(scratch_floats(dim, dim)));
  const auto run = [&](std::int64_t first, std::int64_t count, float* out) {
    Args a;
    a.q = q.data() + first * n_heads * dim;
    a.q_token_stride = a.out_token_stride = n_heads * dim;
    a.q_head_stride = a.out_head_stride = dim;
    a.n_tokens = count;
    a.n_heads = n_heads;
    a.position = position + first;
    a.k = k.view;
    a.v = v.view;
    a.pages = pages.data();
    a.dim_qk = a.dim_v = dim;
    a.out = out;
    a.scratch = scratch.data();
    kernel().run(a);
  };
  std::vector<float> together(q.size()), alone(q.size());
  run(0, n_tokens, together.data());
  for (std::int64_t t = 0; t < n_tokens; ++t) run(t, 1, alone.data() + t * n_heads * dim);
  EXPECT_EQ(together, alone);
}

TEST_P(AttentionTest, KeysInPartsEqualKeysAtOnce) {
  if ((detect_caps() & kernel().caps) != kernel().caps) GTEST_SKIP() << "this CPU lacks the ISA";
  std::mt19937 rng(9);
  std::normal_distribution<float> normal;
  const std::vector<std::int32_t> pages = {3, 1, 0, 2};
  const std::int64_t dim_qk = 40, dim_v = 20, n_heads = 2, n_tokens = 11, position = 120;
  const Cache k = make_cache(kernel(), Format::kF16, position + n_tokens, 1, dim_qk, pages, rng);
  const Cache v = make_cache(kernel(), Format::kF16, position + n_tokens, 1, dim_v, pages, rng);
  std::vector<float> q(static_cast<std::size_t>(n_tokens * n_heads * dim_qk));
  for (float& x : q) x = normal(rng);
  std::vector<float> scratch(static_cast<std::size_t>(scratch_floats(dim_qk, dim_v)));
  std::vector<float> once(static_cast<std::size_t>(n_tokens * n_heads * dim_v)), parts(once);
  std::vector<float> state(static_cast<std::size_t>(2 * n_tokens * n_heads), NAN);
  Args a;
  a.q = q.data();
  a.q_token_stride = n_heads * dim_qk;
  a.q_head_stride = dim_qk;
  a.out_token_stride = n_heads * dim_v;
  a.out_head_stride = dim_v;
  a.n_tokens = n_tokens;
  a.n_heads = n_heads;
  a.position = position;
  a.k = k.view;
  a.v = v.view;
  a.pages = pages.data();
  a.dim_qk = dim_qk;
  a.dim_v = dim_v;
  a.scale = 0.4f;
  a.scratch = scratch.data();
  for (const std::int64_t window : {0, 30}) {  // with the window, the first part has no key at all
    a.window = window;
    a.out = once.data();
    a.key_begin = 0;
    a.key_end = -1;
    a.state = nullptr;
    a.first_part = a.last_part = true;
    kernel().run(a);
    a.out = parts.data();
    a.state = state.data();
    for (const std::int64_t begin : {0, 64, 128}) {  // the last part is beyond the first rows
      a.key_begin = begin;
      a.key_end = begin + 64;
      a.first_part = begin == 0;
      a.last_part = begin == 128;
      kernel().run(a);
    }
    EXPECT_EQ(once, parts) << window;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, AttentionTest,
                         testing::Values("attention_f32_f32_ref", "attention_f32_f32_avx2"));

TEST(AttentionTable, SelectsByCaps) {
  EXPECT_STREQ(select(0).name, "attention_f32_f32_ref");
  EXPECT_STREQ(select(kAvx2).name, "attention_f32_f32_avx2");
  EXPECT_EQ(kernels().size(), 2u);
}

}  // namespace
}  // namespace kt::kernels::attention
