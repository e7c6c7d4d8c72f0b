// Which experts are held: those used most, without change for chance, with change for change.
#include "operators/hot_experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace kt::operators {
namespace {

constexpr std::int64_t kExperts = 64, kSlots = 16, kActive = 4;

// Rows that choose experts by weight, and the changes that follow, at most one a row.
class Rows {
 public:
  Rows() {
    for (std::int32_t e = 0; e < kSlots; ++e) hot.put(e, e);
  }
  /// Share of the choices that were held.
  double run(const std::vector<double>& weights, int n_rows) {
    std::discrete_distribution<std::int32_t> draw(weights.begin(), weights.end());
    std::int64_t n_hits = 0;
    for (int row = 0; row < n_rows; ++row) {
      std::vector<std::int32_t> chosen;
      while (chosen.size() < kActive) {
        const std::int32_t e = draw(random_);
        if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
      }
      for (const std::int32_t e : chosen) {
        hot.use(e);
        n_hits += hot.holds(e) ? 1 : 0;
      }
      hot.pass(1);
      hot.age();
      const auto change = hot.change();
      if (!change) continue;
      hot.put(change->expert, change->slot);
      ++n_changes;
      EXPECT_EQ(hot.n_held(), kSlots);
    }
    return static_cast<double>(n_hits) / static_cast<double>(n_rows * kActive);
  }

  HotExperts hot{kExperts, kSlots};
  int n_changes = 0;

 private:
  std::mt19937 random_{1};
};

// Twelve experts are chosen thirty times as often as the others.
std::vector<double> skewed(bool last) {
  std::vector<double> weights(kExperts, 1.0);
  for (std::size_t e = 0; e < 12; ++e) weights[last ? kExperts - 1 - e : e + 20] = 30.0;
  return weights;
}

TEST(HotExperts, TheSkewOfTheRouterIsLearntAndForgotten) {
  Rows rows;
  const double before = rows.run(skewed(false), 20);
  rows.run(skewed(false), 500);
  const double learnt = rows.run(skewed(false), 500);
  EXPECT_LT(before, 0.4);
  EXPECT_GT(learnt, 0.8);
  const double moved = rows.run(skewed(true), 20);
  EXPECT_LT(moved, 0.4);
  rows.run(skewed(true), 2000);
  EXPECT_GT(rows.run(skewed(true), 500), 0.8);
}

TEST(HotExperts, ExpertsThatAreUsedAlikeStay) {
  Rows rows;
  rows.run(std::vector<double>(kExperts, 1.0), 5000);
  EXPECT_LT(rows.n_changes, 50);
}

TEST(HotExperts, AnEmptySlotTakesWhatWasUsed) {
  HotExperts hot(4, 2);
  EXPECT_FALSE(hot.change());
  hot.use(3);
  hot.pass(1);
  hot.age();
  ASSERT_TRUE(hot.change());
  EXPECT_EQ(hot.change()->expert, 3);
  hot.put(3, hot.change()->slot);
  EXPECT_EQ(hot.n_held(), 1);
  EXPECT_FALSE(hot.change());
  EXPECT_EQ(std::count(hot.slots().begin(), hot.slots().end(), -1), 3);
  hot.drop(hot.slots()[3]);
  EXPECT_EQ(hot.n_held(), 0);
  EXPECT_FALSE(hot.holds(3));
}

TEST(HotExperts, WhatIsExpectedStaysUntilOthersAreUsedMore) {
  HotExperts hot(4, 1);
  EXPECT_EQ(hot.most_used(), (std::vector<std::int32_t>{0, 1, 2, 3}));
  hot.expect(std::vector<float>{0.1f, 0.2f, 0.7f, 0.2f});
  EXPECT_EQ(hot.most_used(), (std::vector<std::int32_t>{2, 1, 3, 0}));
  hot.put(2, 0);
  const auto use = [&](std::int32_t expert, int n_rows) {
    for (int row = 0; row < n_rows; ++row) {
      hot.use(expert);
      hot.pass(1);
      hot.age();
    }
  };
  use(0, 60);
  EXPECT_FALSE(hot.change()) << "60 rows are too few against what was expected";
  use(0, 600);
  ASSERT_TRUE(hot.change());
  EXPECT_EQ(hot.change()->expert, 0);
}

TEST(HotExperts, ManyRowsAtOnceCountAsManyOneByOne) {
  HotExperts one(2, 1), many(2, 1);
  for (int i = 0; i < 400; ++i) {
    one.use(1);
    one.pass(1);
    one.age();
    many.use(1);
  }
  many.pass(400);
  many.age();
  EXPECT_NEAR(one.change()->gain, many.change()->gain, 0.5f);
  EXPECT_LT(many.change()->gain, 400.0f);
}

}  // namespace
}  // namespace kt::operators
