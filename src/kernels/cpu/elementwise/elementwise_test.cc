#include "kernels/cpu/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace kt::kernels::elementwise {
namespace {

const std::int64_t kSizes[] = {1, 2, 7, 8, 9, 31, 64, 577};

std::vector<float> gaussian(std::int64_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = normal(rng);
  return x;
}

template <class F>
void for_each_table(F&& f) {
  for (const Table* t : tables()) {
    if ((detect_caps() & t->caps) == t->caps) f(*t);
  }
}

TEST(Elementwise, RmsNorm) {
  for_each_table([](const Table& t) {
    for (const std::int64_t n : kSizes) {
      const auto x = gaussian(n, 1, 3.0f), w = gaussian(n, 2);
      std::vector<float> out(x.size());
      t.rms_norm(x.data(), w.data(), 1e-6f, n, out.data());
      double sum = 0;
      for (const float v : x) sum += double{v} * v;
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + 1e-6);
      for (std::size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(out[i], x[i] * scale * w[i], 4e-7 * std::abs(x[i] * scale * w[i]) + 1e-12)
            << t.name;
      }
    }
  });
}

TEST(Elementwise, SiluMul) {
  for_each_table([](const Table& t) {
    for (const std::int64_t n : kSizes) {
      auto gate = gaussian(n, 3, 10.0f);
      const auto up = gaussian(n, 4);
      gate[0] = -200.0f;  // the exponential's far end
      std::vector<float> out(gate.size());
      t.silu_mul(gate.data(), up.data(), n, out.data());
      for (std::size_t i = 0; i < out.size(); ++i) {
        const double want = gate[i] / (1.0 + std::exp(-double{gate[i]})) * up[i];
        EXPECT_NEAR(out[i], want, 1e-6 * std::abs(want) + 1e-30) << t.name << " gate " << gate[i];
      }
    }
  });
}

TEST(Elementwise, Softmax) {
  for_each_table([](const Table& t) {
    auto x = gaussian(100, 5, 8.0f);
    const auto original = x;
    t.softmax(x.data(), 100);
    const float largest = *std::max_element(original.begin(), original.end());
    double sum = 0;
    for (const float v : original) sum += std::exp(double{v} - largest);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(x[i], std::exp(double{original[i]} - largest) / sum, 1e-6) << t.name;
    }
  });
}

TEST(Elementwise, RopeRotatesEachPair) {
  const std::vector<float> cos = {0.0f, -1.0f}, sin = {1.0f, 0.0f};
  for_each_table([&](const Table& t) {
    std::vector<float> half = {1, 2, 3, 4};
    t.rope_half(cos.data(), sin.data(), 4, half.data());
    EXPECT_EQ(half, (std::vector<float>{-3, -2, 1, -4})) << t.name;
    std::vector<float> pairs = {1, 2, 3, 4};
    t.rope_pairs(cos.data(), sin.data(), 4, pairs.data());
    EXPECT_EQ(pairs, (std::vector<float>{-2, 1, -3, -4})) << t.name;
  });
}

TEST(Elementwise, IsasAgreeToTheBit) {
  const auto gate = gaussian(133, 6, 4.0f), up = gaussian(133, 7);
  std::vector<std::vector<float>> silu, norm;
  for_each_table([&](const Table& t) {
    silu.emplace_back(gate.size());
    t.silu_mul(gate.data(), up.data(), 133, silu.back().data());
    norm.emplace_back(gate.size());
    t.rms_norm(gate.data(), up.data(), 1e-5f, 133, norm.back().data());
  });
  for (const auto& v : silu) EXPECT_EQ(v, silu.back());
  for (const auto& v : norm) EXPECT_EQ(v, norm.back());
}

TEST(Elementwise, SelectsByCaps) {
  EXPECT_STREQ(select(0).name, "ref");
  EXPECT_STREQ(select(kAvx2).name, "avx2");
}

}  // namespace
}  // namespace kt::kernels::elementwise
