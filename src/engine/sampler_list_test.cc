// Samplers that see lists of a row's largest logits choose what samplers choose that see the row:
// ties, masks, bias, penalties, every filter, sums that are not exact, random numbers in step.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/sampler.h"

namespace kt::engine {
namespace {

constexpr double kError = 1e-5;

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(engine_() % n); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  float normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return static_cast<float>(radius * std::cos(6.283185307179586 * uniform()));
  }

 private:
  std::mt19937_64 engine_;
};

std::vector<float> make_row(Random& random, std::size_t n) {
  const float spread = random.one_of({0.1f, 1.0f, 3.0f, 8.0f});
  const float grid = random.one_of({0.0f, 0.0f, 0.125f, 1.0f});  // ties
  std::vector<float> row(n);
  for (float& l : row) {
    l = spread * random.normal();
    if (grid > 0.0f) l = std::round(l / grid) * grid;
  }
  return row;
}

/// A list of the n largest, with sums that are off by less than they may be.
struct List {
  std::vector<std::int32_t> ids;
  std::vector<float> logits;
  ShortList list;

  List(Random& random, const std::vector<float>& row, std::size_t n, float scale) {
    std::vector<std::int32_t> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    const auto at = [&](std::int32_t i) { return row[static_cast<std::size_t>(i)]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return at(a) > at(b); });
    ids.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(std::min(n, row.size())));
    for (const std::int32_t id : ids) logits.push_back(at(id));
    list = {ids, logits, static_cast<std::int64_t>(row.size())};
    for (const float l : row) {
      list.sum += std::exp(double{l} - logits[0]);
      list.scaled_sum += std::exp((double{l} - logits[0]) * static_cast<double>(scale));
    }
    list.sum *= 1.0 + kError * (1.9 * random.uniform() - 0.95);
    list.scaled_sum *= 1.0 + kError * (1.9 * random.uniform() - 0.95);
    list.error = kError;
  }
};

SamplingParams make_params(Random& random, std::size_t vocab) {
  SamplingParams p;
  p.temperature = random.one_of({0.0f, 0.05f, 0.6f, 1.0f, 1.0f, 2.5f});
  p.top_k = random.one_of({0, 0, 1, 20, 40, 300});
  p.top_p = random.one_of({1.0f, 0.95f, 0.8f, 0.3f, 0.0f});
  p.min_p = random.one_of({0.0f, 0.0f, 0.05f, 0.3f, 1.0f});
  p.typical_p = random.chance(0.1) ? 0.9f : 1.0f;
  if (random.chance(0.4)) p.repetition_penalty = random.one_of({1.1f, 1.5f, 0.8f});
  if (random.chance(0.3)) p.frequency_penalty = random.one_of({0.2f, 1.0f, -0.3f});
  if (random.chance(0.3)) p.presence_penalty = random.one_of({0.5f, 2.0f, -0.5f});
  p.repeat_last_n = random.one_of({64, 8, -1});
  for (int i = random.chance(0.3) ? 4 : 0; i > 0; --i) {
    p.logit_bias[static_cast<std::int32_t>(random.below(vocab))] =
        random.one_of({-100.0f, -1.0f, -INFINITY, 0.5f, 5.0f, INFINITY});
  }
  p.seed = 1 + random.below(1 << 20);
  return p;
}

void expect_same(const SampledToken& got, const SampledToken& want) {
  ASSERT_EQ(got.id, want.id);
  EXPECT_NEAR(got.logprob, want.logprob, 1e-4);
  ASSERT_EQ(got.top.size(), want.top.size());
  for (std::size_t i = 0; i < got.top.size(); ++i) {
    EXPECT_EQ(got.top[i].id, want.top[i].id);
    EXPECT_NEAR(got.top[i].logprob, want.top[i].logprob, 1e-4);
  }
}

struct Use {
  int n = 0, n_lists = 0;
};

// A sequence of tokens, from rows and from lists.
void compare(Random& random, const SamplingParams& params, std::size_t vocab, std::size_t listed,
             bool masked, Use* use) {
  Sampler whole(params, static_cast<std::int64_t>(vocab));
  Sampler from_lists(params, static_cast<std::int64_t>(vocab));
  std::vector<std::int32_t> history;
  for (int i = 0; i < 8; ++i) history.push_back(static_cast<std::int32_t>(random.below(vocab)));
  std::vector<std::uint32_t> mask((vocab + 31) / 32);
  for (int step = 0; step < 10; ++step) {
    const std::vector<float> row = make_row(random, vocab);
    const List list(random, row, listed, whole.list_scale());
    SampleOptions options;
    options.n_top = random.one_of({0, 0, 5});
    if (masked) {
      const bool few = random.chance(0.3);
      for (std::uint32_t& word : mask)
        word = static_cast<std::uint32_t>(random.below(1ull << 32) &
                                          (few ? random.below(1ull << 32) : ~0u));
      options.mask = mask;
    }
    const SampledToken want = whole.sample(row, history, options);
    auto got = from_lists.sample(list.list, history, options);
    ++use->n;
    use->n_lists += got ? 1 : 0;
    if (!got) got = from_lists.sample(row, history, options);
    expect_same(*got, want);
    if (want.id < 0 || testing::Test::HasFailure()) return;
    history.push_back(want.id);
  }
}

TEST(SamplerList, ListsChooseWhatTheirRowsChoose) {
  Random random(7);
  Use use;
  for (int i = 0; i < 3000 && !testing::Test::HasFailure(); ++i) {
    const std::size_t vocab = random.one_of<std::size_t>({3, 65, 700});
    const std::size_t listed = random.one_of<std::size_t>({1, 8, 64, 256});
    compare(random, make_params(random, vocab), vocab, listed, random.chance(0.25), &use);
    if (testing::Test::HasFailure()) ADD_FAILURE() << "sequence " << i;
  }
  // Rows as wide as these and lists as short leave many to the rows.
  EXPECT_GT(use.n_lists, use.n / 3);
  EXPECT_LT(use.n_lists, use.n);
}

TEST(SamplerList, CommonParametersNeedNoRows) {
  Random random(8);
  const auto share = [&](const SamplingParams& params, bool masked = false) {
    Use use;
    for (int i = 0; i < 20; ++i) compare(random, params, 20000, 256, masked, &use);
    return static_cast<double>(use.n_lists) / use.n;
  };
  SamplingParams params;
  params.seed = 5;
  EXPECT_EQ(share(params), 1.0);  // top_k 40
  params.repetition_penalty = 1.1f;
  EXPECT_GT(share(params), 0.99);
  params.temperature = 0.0f;
  EXPECT_EQ(share(params), 1.0);
  params.repetition_penalty = 1.0f;
  EXPECT_EQ(share(params), 1.0);
  EXPECT_GT(share(params, true), 0.99);
}

// As models have them: a few tokens hold most of the mass.
TEST(SamplerList, WithoutTopKTheSumSaysHowFarTheMassReaches) {
  Random random(9);
  SamplingParams params;
  params.top_k = 0;
  params.seed = 5;
  for (const auto& [top_p, min_p] : {std::pair{0.95f, 0.0f}, {1.0f, 0.05f}, {1.0f, 0.0f}}) {
    params.top_p = top_p;
    params.min_p = min_p;
    params.temperature = 1.0f;
    Sampler whole(params, 20000), from_lists(params, 20000);
    int n_lists = 0;
    for (int i = 0; i < 100; ++i) {
      std::vector<float> row(20000);
      for (float& l : row) l = random.normal();
      for (int j = 0; j < 30; ++j) row[random.below(row.size())] += 12.0f;
      const List list(random, row, 256, 1.0f);
      auto got = from_lists.sample(list.list, {});
      n_lists += got ? 1 : 0;
      if (!got) got = from_lists.sample(row, {});
      ASSERT_EQ(got->id, whole.sample(row, {}).id) << top_p << " " << min_p;
    }
    EXPECT_GT(n_lists, 90) << top_p << " " << min_p;
  }
}

TEST(SamplerList, WhatCannotBeToldLeavesTheRandomNumbersAlone) {
  Random random(10);
  SamplingParams params;
  params.top_k = 0;
  params.top_p = 1.0f;
  params.min_p = 0.0f;
  params.temperature = 1.0f;
  params.seed = 3;
  Sampler whole(params, 1000), from_lists(params, 1000);
  const std::vector<float> row(1000, 0.0f);
  const List list(random, row, 2, 1.0f);
  int n_lists = 0;
  for (int i = 0; i < 200; ++i) {
    const auto got = from_lists.sample(list.list, {});
    n_lists += got ? 1 : 0;
    EXPECT_EQ((got ? *got : from_lists.sample(row, {})).id, whole.sample(row, {}).id);
  }
  EXPECT_LT(n_lists, 10);
  params.typical_p = 0.9f;
  EXPECT_FALSE(Sampler(params, 1000).sample(list.list, {}));
  SampleOptions options;
  options.n_top = 3;
  params.temperature = 0.0f;
  EXPECT_FALSE(Sampler(params, 1000).sample(list.list, {}, options));
}

}  // namespace
}  // namespace kt::engine
