#include "kernels/cpu/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/half.h"
#include "tensor/tensor.h"

namespace kt::kernels::attention {
namespace {

using formats::Format;

struct Case {
  std::int64_t n_tokens, n_heads, position, dim_qk, dim_v, window;
  bool latent;  // v is the start of k's rows
  Format format;
};

// A paged cache of one stream with shuffled pages, filled through store().
struct Cache {
  tensor::KvStreamView view;
  std::vector<std::byte> memory;
  std::vector<float> values;  // [n, n_heads * dim] as stored, decoded
};

Cache make_cache(Format format, std::int64_t n, std::int64_t n_heads, std::int64_t dim,
                 const std::vector<std::int32_t>& pages, std::mt19937& rng) {
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
      select(0).store(format, v.data(), dim, at);
      formats::traits(format).decode(at, c.values.data() + (p * n_heads + h) * dim, dim);
    }
  }
  return c;
}

// Attention in double, and how far a kernel may be from it: scores are off by their rounding
// (dim_qk sums in float; two bf16 factors of relative error 2^-9 each), which moves weights by as
// much relatively, twice with the sum; then come the rounding of weights and values and the sums
// over keys.
struct Wanted {
  std::vector<double> out, bound;
};

struct Rounding {
  double scores, values;  // of two factors
};
constexpr double kBf16 = 1.0 / 256;
constexpr Rounding kExact = {0.0, 0.0}, kTiles = {kBf16, kBf16};
// Between two that round alike: a weight may fall to either side.
constexpr Rounding kAlike = {0.0, kBf16};

Wanted naive(const Args& a, const Cache& k, const Cache& v, Rounding rounding) {
  const double unit = std::ldexp(1.0, -24);
  Wanted wanted;
  for (std::int64_t t = 0; t < a.n_tokens; ++t) {
    for (std::int64_t h = 0; h < a.n_heads; ++h) {
      const std::int64_t position = a.position + t;
      const std::int64_t lo = a.window > 0 ? std::max<std::int64_t>(0, position - a.window + 1) : 0;
      std::vector<double> s;
      double largest = -1e300, sum = 0, score_error = 0;
      for (std::int64_t p = lo; p <= position; ++p) {
        double dot = 0, size = 0;
        for (std::int64_t d = 0; d < a.dim_qk; ++d) {
          const double product =
              static_cast<double>(a.q[t * a.q_token_stride + h * a.q_head_stride + d]) *
              static_cast<double>(k.values[static_cast<std::size_t>(
                  (p * k.view.n_heads + a.kv_head) * k.view.dim + d)]);
          dot += product;
          size += std::abs(product);
        }
        const auto scale = static_cast<double>(a.scale);
        s.push_back(dot * scale);
        largest = std::max(largest, s.back());
        score_error =
            std::max(score_error,
                     size * scale * (static_cast<double>(a.dim_qk + 2) * unit + rounding.scores));
      }
      for (double& x : s) sum += x = std::exp(x - largest);
      const double weight_error = std::expm1(2.0 * score_error) + rounding.values +
                                  static_cast<double>(position - lo + 64) * unit;
      for (std::int64_t d = 0; d < a.dim_v; ++d) {
        double o = 0, size = 0;
        for (std::int64_t p = lo; p <= position; ++p) {
          const double term = s[static_cast<std::size_t>(p - lo)] / sum *
                              static_cast<double>(v.values[static_cast<std::size_t>(
                                  (p * v.view.n_heads + a.kv_head) * v.view.dim + d)]);
          o += term;
          size += std::abs(term);
        }
        wanted.out.push_back(o);
        wanted.bound.push_back(size * weight_error);
      }
    }
  }
  return wanted;
}

// Queries of one kv head, their cache, and the memory that a kernel works in.
struct Problem {
  Problem(const Kernel& kernel_in, const Case& c, std::uint32_t seed) : kernel(kernel_in) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    const std::int64_t n = c.position + c.n_tokens;
    const std::int64_t n_kv = c.latent ? 1 : 2;
    for (std::int64_t i = 0; i * tensor::kKvPageLen < n; ++i) {
      pages.push_back(static_cast<std::int32_t>(i));
    }
    std::shuffle(pages.begin(), pages.end(), rng);
    k = make_cache(c.format, n, n_kv, c.dim_qk, pages, rng);
    v = c.latent ? Cache{k.view, {}, k.values} : make_cache(c.format, n, n_kv, c.dim_v, pages, rng);
    q.resize(static_cast<std::size_t>(c.n_tokens * c.n_heads * c.dim_qk));
    for (float& x : q) x = normal(rng);
    scratch =
        tensor::Buffer(sizeof(float) * static_cast<std::size_t>(scratch_floats(c.dim_qk, c.dim_v)));
    std::memset(scratch.data(), 0xff, scratch.size());  // NaN: nothing may be read unwritten
    args.q = q.data();
    args.q_token_stride = c.n_heads * c.dim_qk;
    args.q_head_stride = c.dim_qk;
    args.n_tokens = c.n_tokens;
    args.n_heads = c.n_heads;
    args.position = c.position;
    args.k = k.view;
    args.v = v.view;
    args.pages = pages.data();
    args.kv_head = n_kv - 1;
    args.dim_qk = c.dim_qk;
    args.dim_v = c.dim_v;
    args.scale = 0.3f;
    args.window = c.window;
    args.out_token_stride = c.n_heads * c.dim_v;
    args.out_head_stride = c.dim_v;
    args.scratch = reinterpret_cast<float*>(scratch.data());
  }

  // Rows [first, first + count) of the tokens, split by split.
  std::vector<float> run(std::int64_t first, std::int64_t count) {
    Args a = at(first, count);
    std::vector<float> out(static_cast<std::size_t>(count * a.out_token_stride), NAN);
    a.out = out.data();
    tensor::Buffer state = new_state();
    a.state = reinterpret_cast<float*>(state.data());
    kernel.clear(a);
    kernel.load(a);
    const SplitRange range = splits(a.position, a.window, a.position + count);
    for (std::int64_t s = 0; s < range.count; ++s) {
      const std::int64_t begin = range.begin + s * kSplitKeys;
      kernel.add(a, begin, begin + kSplitKeys);
    }
    kernel.finish(a);
    return out;
  }
  std::vector<float> run() { return run(0, args.n_tokens); }

  // Every split in a state of its own, folded in order.
  std::vector<float> run_folded() {
    Args a = args;
    std::vector<float> out(static_cast<std::size_t>(a.n_tokens * a.out_token_stride), NAN);
    a.out = out.data();
    const SplitRange range = splits(a.position, a.window, a.position + a.n_tokens);
    std::vector<tensor::Buffer> states;
    for (std::int64_t s = 0; s < range.count; ++s) {
      states.push_back(new_state());
      a.state = reinterpret_cast<float*>(states.back().data());
      kernel.clear(a);
      kernel.load(a);
      const std::int64_t begin = range.begin + s * kSplitKeys;
      kernel.add(a, begin, begin + kSplitKeys);
    }
    tensor::Buffer total = new_state();
    a.state = reinterpret_cast<float*>(total.data());
    kernel.clear(a);
    for (const tensor::Buffer& s : states) kernel.fold(a, reinterpret_cast<const float*>(s.data()));
    kernel.finish(a);
    return out;
  }

  Args at(std::int64_t first, std::int64_t count) const {
    Args a = args;
    a.q += first * a.q_token_stride;
    a.n_tokens = count;
    a.position += first;
    return a;
  }
  tensor::Buffer new_state() const {
    return tensor::Buffer(sizeof(float) * static_cast<std::size_t>(state_floats(args.dim_v)));
  }

  const Kernel& kernel;
  std::vector<std::int32_t> pages;
  Cache k, v;
  std::vector<float> q;
  tensor::Buffer scratch;
  Args args;
};

const Kernel& find(const std::string& name) {
  for (const Kernel* k : kernels()) {
    if (k->name == name) return *k;
  }
  throw std::runtime_error("no kernel " + name);
}

class AttentionTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if ((detect_caps() & kernel().caps) != kernel().caps) GTEST_SKIP() << "this CPU lacks the ISA";
  }
  const Kernel& kernel() const { return find(GetParam()); }
};

// Tokens, heads, position, dim_qk, dim_v, window, latent, format.
constexpr Case kCases[] = {
    {1, 1, 0, 8, 8, 0, false, Format::kF32},
    {1, 4, 200, 64, 64, 0, false, Format::kF32},
    {7, 3, 60, 64, 64, 0, false, Format::kF16},
    {10, 3, 127, 24, 40, 0, false, Format::kF32},
    {1, 32, 63, 576, 512, 0, true, Format::kF32},
    {2, 5, 64, 80, 64, 0, true, Format::kBF16},
    {8, 4, 150, 32, 32, 9, false, Format::kF32},
    {8, 4, 150, 32, 32, 100, false, Format::kQ8_0},
    {4, 1, 3, 96, 64, 2, false, Format::kF16},
    {16, 4, 500, 128, 128, 0, false, Format::kF16},
    {11, 5, 700, 40, 20, 300, false, Format::kF16},
    {1, 64, 777, 576, 512, 0, true, Format::kF16},
    {13, 1, 251, 64, 96, 0, false, Format::kBF16},
    {9, 7, 270, 160, 32, 5, false, Format::kQ8_0},
    {1, 4, 333, 128, 128, 0, false, Format::kF8_E4M3},
    {11, 5, 300, 40, 20, 100, false, Format::kF8_E4M3},
    {3, 16, 130, 576, 512, 0, true, Format::kF8_E4M3},
    {64, 1, 1000, 20, 12, 40, false, Format::kF32},
    // In the first split some rows see nothing: their windows begin behind it.
    {16, 1, 545, 32, 160, 40, false, Format::kF16},
};

TEST_P(AttentionTest, EqualsSoftmaxInDouble) {
  for (const Case& c : kCases) {
    Problem p(kernel(), c, 7);
    const std::vector<float> out = p.run();
    const Wanted want = naive(p.args, p.k, p.v, kernel().bf16 ? kTiles : kExact);
    for (std::size_t i = 0; i < want.out.size(); ++i) {
      ASSERT_NEAR(out[i], want.out[i], want.bound[i])
          << "value " << i << ", dims " << c.dim_qk << "/" << c.dim_v << ", position "
          << c.position;
    }
  }
}

TEST_P(AttentionTest, ARowDoesNotDependOnItsBatch) {
  for (const Case& c : kCases) {
    Problem p(kernel(), c, 3);
    const std::vector<float> together = p.run();
    std::vector<float> alone;
    for (std::int64_t t = 0; t < c.n_tokens; ++t) {
      const std::vector<float> row = p.run(t, 1);
      alone.insert(alone.end(), row.begin(), row.end());
    }
    EXPECT_EQ(together, alone) << "position " << c.position;
  }
}

TEST_P(AttentionTest, FoldedSplitsEqualOneAfterTheOther) {
  for (const Case& c : kCases) {
    Problem p(kernel(), c, 9);
    EXPECT_EQ(p.run(), p.run_folded()) << "position " << c.position;
  }
}

TEST(AttentionTiles, EqualTheirTwin) {
  const Kernel& tiles = find("attention_amx");
  if ((detect_caps() & tiles.caps) != tiles.caps) GTEST_SKIP() << "this CPU lacks the ISA";
  for (const Case& c : kCases) {
    Problem p(tiles, c, 11), twin(find("attention_bf16_ref"), c, 11);
    const std::vector<float> out = p.run(), same = twin.run();
    const Wanted want = naive(p.args, p.k, p.v, kAlike);
    for (std::size_t i = 0; i < want.out.size(); ++i) {
      ASSERT_NEAR(out[i], same[i], 2 * want.bound[i])
          << "value " << i << ", position " << c.position;
    }
  }
}

TEST(AttentionStore, EqualsTheEncoder) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(96);
  for (float& v : x) v = normal(rng);
  for (const Kernel* kernel : kernels()) {
    if (kernel->store == nullptr || (detect_caps() & kernel->caps) != kernel->caps) continue;
    for (const Format format :
         {Format::kF32, Format::kF16, Format::kBF16, Format::kF8_E4M3, Format::kQ8_0}) {
      std::vector<std::byte> got(formats::row_bytes(format, 96)), want(got);
      kernel->store(format, x.data(), 96, got.data());
      formats::traits(format).encode(x.data(), nullptr, want.data(), 96);
      EXPECT_EQ(got, want) << kernel->name << " " << formats::traits(format).name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, AttentionTest, testing::ValuesIn([] {
                           std::vector<const char*> names;
                           for (const Kernel* k : kernels()) names.push_back(k->name);
                           return names;
                         }()));

TEST(AttentionTable, SelectsByCaps) {
  EXPECT_STREQ(select(0).name, "attention_ref");
  EXPECT_STREQ(select(kAvx2).name, "attention_avx2");
  EXPECT_STREQ(select(kAvx2 | kAvx512).name, "attention_avx512");
  EXPECT_STREQ(select(kAvx2 | kAvx512, true).name, "attention_bf16_ref");
  EXPECT_STREQ(select(kAvx2 | kAvx512 | kAmx, true).name, "attention_amx");
}

}  // namespace
}  // namespace kt::kernels::attention
