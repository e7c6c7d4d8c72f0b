// The row-wise kernels against plain loops in double precision, on edge shapes.
#include "kernels/cuda/elementwise/elementwise.h"

#include <algorithm>

#include "base/test_random.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using Elementwise = OnDevice;

TEST_F(Elementwise, AddRmsNorm) {
  for (const std::int64_t d : {1, 31, 256, 257, 7168}) {
    const std::int64_t m = 3;
    const std::vector<float> residual = gaussian(m * d, 1), delta = rounded(gaussian(m * d, 2)),
                             weight = gaussian(d, 3);
    Device<float> r(residual);
    const Device<std::uint16_t> add(as_bf16(delta));
    const Device<float> w(weight);
    Device<std::uint16_t> out(m * d);
    NormArgs args{r.get(), Type::kF32, add.get(), Type::kBF16, w.get(), out.get(), Type::kBF16,
                  m,       d,          d,         d,           d,       1e-5f};
    ASSERT_EQ(add_rms_norm(args, nullptr), Status::kOk);
    const std::vector<float> got = as_floats(out.host()), sums = r.host();
    Compare compare("norm of " + std::to_string(d)), compare_sums("residual");
    for (std::int64_t i = 0; i < m; ++i) {
      double squares = 0.0;
      for (std::int64_t j = 0; j < d; ++j) {
        const auto at = static_cast<std::size_t>(i * d + j);
        const double v = residual[at] + delta[at];
        compare_sums.value(sums[at], v, 1e-6 * std::fabs(v), i * d + j);
        squares += v * v;
      }
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(d) + 1e-5);
      for (std::int64_t j = 0; j < d; ++j) {
        const auto at = static_cast<std::size_t>(i * d + j);
        const double want =
            (residual[at] + delta[at]) * scale * weight[static_cast<std::size_t>(j)];
        compare.value(got[at], want, std::fabs(want) * 0x1p-7, i * d + j);
      }
    }
  }
}

TEST_F(Elementwise, Rope) {
  const std::int64_t n_tokens = 3, n_heads = 5, d = 64, n_positions = 100;
  const std::vector<float> x = gaussian(n_tokens * n_heads * d, 1);
  const std::vector<float> cos = gaussian(n_positions * d / 2, 2),
                           sin = gaussian(n_positions * d / 2, 3);
  const std::vector<std::int32_t> positions = {99, 0, 41};
  const Device<float> c(cos), s(sin);
  const Device<std::int32_t> p(positions);
  for (const bool interleaved : {false, true}) {
    Device<float> on_device(x);
    RopeArgs args{on_device.get(), Type::kF32, n_tokens, n_heads,    d, n_heads * d, d,
                  p.get(),         c.get(),    s.get(),  interleaved};
    ASSERT_EQ(rope(args, nullptr), Status::kOk);
    const std::vector<float> got = on_device.host();
    Compare compare(interleaved ? "pairs" : "halves");
    for (std::int64_t row = 0; row < n_tokens * n_heads; ++row) {
      for (std::int64_t i = 0; i < d / 2; ++i) {
        const auto first = static_cast<std::size_t>(row * d + (interleaved ? 2 * i : i));
        const auto second = interleaved ? first + 1 : first + static_cast<std::size_t>(d / 2);
        const auto at = static_cast<std::size_t>(
            positions[static_cast<std::size_t>(row / n_heads)] * d / 2 + i);
        const double bound = 1e-6 * (std::fabs(x[first]) + std::fabs(x[second])) *
                             (std::fabs(cos[at]) + std::fabs(sin[at]));
        compare.value(got[first], double{x[first]} * cos[at] - double{x[second]} * sin[at], bound,
                      row);
        compare.value(got[second], double{x[second]} * cos[at] + double{x[first]} * sin[at], bound,
                      row);
      }
    }
  }
}

TEST_F(Elementwise, SiluMul) {
  const std::int64_t m = 3, d = 131, stride = 2 * d;
  const std::vector<float> both = rounded(gaussian(m * stride, 1, 3.0f));
  const Device<std::uint16_t> x(as_bf16(both));
  Device<float> out(m * d);
  ASSERT_EQ(
      silu_mul({x.get(), x.get() + d, Type::kBF16, stride, out.get(), Type::kF32, m, d}, nullptr),
      Status::kOk);
  const std::vector<float> got = out.host();
  Compare compare("silu");
  for (std::int64_t i = 0; i < m * d; ++i) {
    const double gate = both[static_cast<std::size_t>(i / d * stride + i % d)];
    const double up = both[static_cast<std::size_t>(i / d * stride + d + i % d)];
    const double want = gate / (1.0 + std::exp(-gate)) * up;
    compare.value(got[static_cast<std::size_t>(i)], want, 4e-6 * std::fabs(want) + 1e-9, i);
  }
}

TEST_F(Elementwise, AddsRowsAndOneRowToAll) {
  const std::int64_t m = 3, n = 131;
  const std::vector<float> y = rounded(gaussian(m * n, 1)), x = gaussian(m * n, 2);
  const Device<float> on_device(x);
  for (const std::int64_t stride : {n, std::int64_t{0}}) {
    Device<std::uint16_t> sum(as_bf16(y));
    ASSERT_EQ(add({sum.get(), Type::kBF16, on_device.get(), Type::kF32, stride, m, n}, nullptr),
              Status::kOk);
    const std::vector<float> got = as_floats(sum.host());
    Compare compare(stride == 0 ? "bias" : "sum");
    for (std::int64_t i = 0; i < m * n; ++i) {
      const double want = double{y[static_cast<std::size_t>(i)]} +
                          x[static_cast<std::size_t>(i / n * stride + i % n)];
      compare.value(got[static_cast<std::size_t>(i)], want, std::fabs(want) * 0x1p-7, i);
    }
  }
}

TEST_F(Elementwise, ScalesRowsBySigmoid) {
  const std::int64_t m = 3, n = 131;
  const std::vector<float> y = gaussian(m * n, 1), gate = {-30.0f, 0.25f, 3.0f};
  Device<float> scaled(y);
  const Device<float> on_device(gate);
  ASSERT_EQ(scale_rows({scaled.get(), Type::kF32, on_device.get(), m, n}, nullptr), Status::kOk);
  const std::vector<float> got = scaled.host();
  Compare compare("sigmoid");
  for (std::int64_t i = 0; i < m * n; ++i) {
    const double want = y[static_cast<std::size_t>(i)] /
                        (1.0 + std::exp(-double{gate[static_cast<std::size_t>(i / n)]}));
    compare.value(got[static_cast<std::size_t>(i)], want, 1e-6 * std::fabs(want) + 1e-30, i);
  }
}

struct Case {
  std::int64_t n_experts, n_active, n_groups, n_groups_used;
  bool sigmoid, top2, normalize, bias;
};

/// The definition, in double precision.
void route_row(const Case& c, const float* scores, const float* bias, std::vector<int>* ids,
               std::vector<double>* weights) {
  const auto n = static_cast<std::size_t>(c.n_experts);
  std::vector<double> p(n), choice(n);
  const double top = *std::max_element(scores, scores + n);
  double sum = 0.0;
  for (std::size_t e = 0; e < n; ++e) {
    p[e] = c.sigmoid ? 1.0 / (1.0 + std::exp(-double{scores[e]})) : std::exp(scores[e] - top);
    sum += p[e];
  }
  for (std::size_t e = 0; e < n; ++e) {
    if (!c.sigmoid) p[e] /= sum;
    choice[e] = p[e] + (c.bias ? bias[e] : 0.0);
  }
  const std::size_t size = n / static_cast<std::size_t>(c.n_groups);
  std::vector<std::pair<double, std::size_t>> groups;
  for (std::size_t g = 0; g < static_cast<std::size_t>(c.n_groups); ++g) {
    std::vector<double> in(choice.begin() + static_cast<std::ptrdiff_t>(g * size),
                           choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
    std::sort(in.rbegin(), in.rend());
    groups.emplace_back(-(c.top2 ? in[0] + in[1] : in[0]), g);
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<double, int>> order;
  for (std::int64_t i = 0; i < c.n_groups_used; ++i) {
    for (std::size_t e = groups[static_cast<std::size_t>(i)].second * size, j = 0; j < size;
         ++j, ++e) {
      order.emplace_back(-choice[e], static_cast<int>(e));
    }
  }
  std::sort(order.begin(), order.end());
  double total = 0.0;
  for (std::int64_t i = 0; i < c.n_active; ++i) {
    ids->push_back(order[static_cast<std::size_t>(i)].second);
    weights->push_back(p[static_cast<std::size_t>(ids->back())]);
    total += weights->back();
  }
  for (double& w : *weights) w = w / (c.normalize ? total : 1.0) * 2.5;
}

TEST_F(Elementwise, Route) {
  const std::int64_t m = 7;
  for (const Case& c :
       {Case{128, 8, 1, 1, false, false, true, false}, Case{7, 3, 1, 1, false, false, false, false},
        Case{160, 6, 8, 3, false, false, false, false}, Case{256, 8, 8, 4, true, true, true, true},
        Case{384, 8, 1, 1, true, true, true, true}, Case{640, 70, 1, 1, false, false, true, true},
        Case{2, 2, 1, 1, true, false, false, false}}) {
    const std::vector<float> scores = gaussian(m * c.n_experts, 1),
                             bias = gaussian(c.n_experts, 2, 0.1f);
    const Device<float> s(scores), b(bias);
    Device<std::int32_t> ids(m * c.n_active);
    Device<float> weights(m * c.n_active);
    RouteArgs args{s.get(),
                   c.bias ? b.get() : nullptr,
                   m,
                   c.n_experts,
                   c.n_active,
                   c.n_groups,
                   c.n_groups_used,
                   c.sigmoid,
                   c.top2,
                   c.normalize,
                   2.5f,
                   ids.get(),
                   weights.get()};
    ASSERT_EQ(route(args, nullptr), Status::kOk);
    const std::vector<std::int32_t> got = ids.host();
    const std::vector<float> got_weights = weights.host();
    Compare compare("weights of " + std::to_string(c.n_experts));
    for (std::int64_t r = 0; r < m; ++r) {
      std::vector<int> want;
      std::vector<double> want_weights;
      route_row(c, scores.data() + r * c.n_experts, bias.data(), &want, &want_weights);
      for (std::int64_t i = 0; i < c.n_active; ++i) {
        const auto at = static_cast<std::size_t>(r * c.n_active + i);
        EXPECT_EQ(got[at], want[static_cast<std::size_t>(i)])
            << c.n_experts << " experts, row " << r;
        const double w = want_weights[static_cast<std::size_t>(i)];
        compare.value(got_weights[at], w, 2e-6 * w, r * c.n_active + i);
      }
    }
  }
}

TEST_F(Elementwise, RouteTakesTheLowerOfEqualExperts) {
  const Device<float> s(std::vector<float>(64, 1.0f));
  Device<std::int32_t> ids(8);
  Device<float> weights(8);
  RouteArgs args{s.get(), nullptr, 2, 32, 4};
  args.ids = ids.get();
  args.weights = weights.get();
  ASSERT_EQ(route(args, nullptr), Status::kOk);
  EXPECT_EQ(ids.host(), (std::vector<std::int32_t>{0, 1, 2, 3, 0, 1, 2, 3}));
}

TEST_F(Elementwise, RowsOfATable) {
  const std::int64_t d = 67;
  const std::vector<float> table = rounded(gaussian(10 * d, 1));
  const Device<std::uint16_t> t(as_bf16(table));
  const Device<std::int32_t> ids(std::vector<std::int32_t>{9, 0, 9});
  Device<float> out(3 * d);
  ASSERT_EQ(gather_rows({t.get(), Type::kBF16, ids.get(), out.get(), Type::kF32, 3, d}, nullptr),
            Status::kOk);
  const std::vector<float> got = out.host();
  for (std::int64_t i = 0; i < d; ++i) {
    EXPECT_EQ(got[static_cast<std::size_t>(i)], table[static_cast<std::size_t>(9 * d + i)]);
    EXPECT_EQ(got[static_cast<std::size_t>(d + i)], table[static_cast<std::size_t>(i)]);
  }
}

TEST_F(Elementwise, ScatterAdd) {
  constexpr std::int64_t d = 300;
  const std::vector<float> x = gaussian(4 * d, 1), before = gaussian(6 * d, 2);
  const Device<float> from(x);
  const Device<std::int32_t> rows(std::vector<std::int32_t>{4, 1}),
      begins(std::vector<std::int32_t>{0, 3, 4});
  Device<float> y(before);
  ASSERT_EQ(scatter_add({from.get(), rows.get(), begins.get(), y.get(), 2, d}, nullptr),
            Status::kOk);
  const std::vector<float> got = y.host();
  for (std::int64_t i = 0; i < 6 * d; ++i) {
    const auto at = [&](std::int64_t row) { return x[static_cast<std::size_t>(row * d + i % d)]; };
    float want = before[static_cast<std::size_t>(i)];
    if (i / d == 4) want = want + at(0) + at(1) + at(2);
    if (i / d == 1) want += at(3);
    EXPECT_EQ(got[static_cast<std::size_t>(i)], want) << i;
  }
}

}  // namespace
}  // namespace kt::kernels::cuda
