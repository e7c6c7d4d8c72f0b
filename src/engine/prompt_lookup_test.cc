#include "engine/prompt_lookup.h"

#include <gtest/gtest.h>

namespace kt::engine {
namespace {

using Tokens = std::vector<std::int32_t>;

TEST(LookUp, TakesWhatFollowedTheLatestLongestMatch) {
  EXPECT_EQ(look_up(Tokens{1, 2, 3, 4, 9, 1, 2}, 8), (Tokens{3, 4, 9, 1, 2}));
  EXPECT_EQ(look_up(Tokens{1, 2, 3, 4, 9, 1, 2}, 2), (Tokens{3, 4}));
  EXPECT_EQ(look_up(Tokens{1, 2, 5, 0, 1, 2, 6, 0, 1, 2}, 1), Tokens{6});     // the latest
  EXPECT_EQ(look_up(Tokens{7, 1, 2, 5, 0, 1, 2, 6, 7, 1, 2}, 1), Tokens{5});  // the longest
  EXPECT_EQ(look_up(Tokens{3, 3, 3}, 8), Tokens{3});
  EXPECT_TRUE(look_up(Tokens{1, 2, 3, 4}, 8).empty());
  EXPECT_TRUE(look_up(Tokens{1, 2, 1}, 8).empty());  // one token is no match
  EXPECT_TRUE(look_up(Tokens{1, 2, 3, 1, 2}, 0).empty());
  EXPECT_TRUE(look_up(Tokens{}, 8).empty());
}

// The text 0 … 19 twice: guesses of any length are there.
Tokens repeated() {
  Tokens tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(i % 20);
  return tokens;
}

Acceptance after(int n, std::int64_t n_drafted, std::int64_t n_accepted) {
  Acceptance a;
  for (int i = 0; i < n; ++i) a.record(n_drafted, n_accepted);
  return a;
}

TEST(Drafts, LengthsFollowWhatRowsCostAndHowOftenGuessesAreRight) {
  Acceptance good = after(50, 8, 8), bad = after(50, 8, 0);
  EXPECT_GT(good.probability(), 0.95);
  EXPECT_LT(bad.probability(), 0.2);
  Drafts free, dear;
  for (std::int64_t rows = 1; rows <= Drafts::kMostRows; ++rows) {
    free.record(rows, 0.010 + 0.0001 * static_cast<double>(rows));
    dear.record(rows, 0.010 * static_cast<double>(rows));
  }
  EXPECT_EQ(free.choose(repeated(), good, 1, 100).size(), 8u);
  EXPECT_EQ(free.choose(repeated(), good, 1, 3).size(), 3u);
  EXPECT_TRUE(free.choose(Tokens{1, 2, 3}, good, 1, 100).empty());
  EXPECT_TRUE(dear.choose(repeated(), good, 1, 100).empty());
  EXPECT_LE(free.choose(repeated(), bad, 1, 100).size(), 2u);
  EXPECT_EQ(free.choose(repeated(), good, 28, 100).size(), 3u);  // 31 rows at most
  EXPECT_TRUE(free.choose(repeated(), good, 31, 100).empty());
  EXPECT_TRUE(free.choose(repeated(), good, 40, 100).empty());
}

TEST(Drafts, SwitchedOffTheyAreTriedAgain) {
  Drafts drafts;
  for (std::int64_t rows = 1; rows <= Drafts::kMostRows; ++rows)
    drafts.record(rows, 0.010 + 0.005 * static_cast<double>(rows - 1));
  Acceptance acceptance = after(50, 8, 0);
  EXPECT_TRUE(drafts.choose(repeated(), acceptance, 1, 100).empty());
  int tries = 0;
  while (drafts.choose(repeated(), acceptance, 1, 100).empty()) ASSERT_LT(++tries, 1000);
  EXPECT_GT(tries, 10);
}

TEST(Drafts, UnknownCostsAreMeasuredAndOldOnesForgotten) {
  Drafts drafts;
  drafts.record(1, 0.010);
  Acceptance acceptance;
  EXPECT_FALSE(drafts.choose(repeated(), acceptance, 1, 100).empty());
  for (std::int64_t rows = 2; rows <= Drafts::kMostRows; ++rows) drafts.record(rows, 1.0);
  EXPECT_TRUE(drafts.choose(repeated(), acceptance, 1, 100).empty());
  for (int i = 0; i < 600; ++i) drafts.record(1, 0.010);
  EXPECT_FALSE(drafts.choose(repeated(), acceptance, 1, 100).empty());
}

}  // namespace
}  // namespace kt::engine
