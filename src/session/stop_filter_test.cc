#include "session/stop_filter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace kt::session {
namespace {

using Pieces = std::vector<std::string>;

struct Outcome {
  Pieces passed;
  std::string text;
  bool hit = false;
};

Outcome run(const Pieces& stops, const Pieces& pieces) {
  Outcome o;
  StopFilter filter(stops, [&](std::string_view part) {
    o.passed.emplace_back(part);
    return true;
  });
  for (const std::string& piece : pieces) {
    if (!filter.push(piece)) break;
  }
  filter.flush();
  o.text = filter.text();
  o.hit = !filter.hit().empty();
  return o;
}

TEST(StopFilter, WithoutStopsEverythingPasses) {
  const Outcome o = run({}, {"a", "bc", "", "d"});
  EXPECT_EQ(o.passed, (Pieces{"a", "bc", "d"}));
  EXPECT_EQ(o.text, "abcd");
  EXPECT_FALSE(o.hit);
}

TEST(StopFilter, CutsInsideAPieceAndAcrossPieces) {
  EXPECT_EQ(run({"STOP"}, {"one STOP two"}).text, "one ");
  EXPECT_EQ(run({"STOP"}, {"one S", "T", "OP two"}).passed, Pieces{"one "});
  EXPECT_TRUE(run({"STOP"}, {"one S", "T", "OP two"}).hit);
  EXPECT_EQ(run({"STOP"}, {"STOP"}).text, "");
}

TEST(StopFilter, WhatOnlyLooksLikeABeginningComesLater) {
  const Outcome o = run({"STOP"}, {"a ST", "x", " STO"});
  EXPECT_EQ(o.passed, (Pieces{"a ", "STx", " ", "STO"}));
  EXPECT_FALSE(o.hit);
  EXPECT_EQ(o.text, "a STx STO");
}

TEST(StopFilter, TheEarliestStopWins) {
  EXPECT_EQ(run({"cd", "bc"}, {"abcd"}).text, "a");
  EXPECT_EQ(run({"abcd", "b"}, {"a", "b", "cd"}).text, "a");
}

TEST(StopFilter, OverlappingBeginnings) {
  EXPECT_EQ(run({"aab"}, {"a", "a", "a", "b"}).text, "a");
  EXPECT_EQ(run({"\n\n", "\nUser:"}, {"x\n", "Use", "r:"}).text, "x");
  EXPECT_EQ(run({"\n\n", "\nUser:"}, {"x\nUse", "\n", "\ny"}).text, "x\nUse");
}

TEST(StopFilter, StopsWithinBytesOfACharacter) {
  EXPECT_EQ(run({"\xe2\x82\xac"}, {"1\xe2\x82", "\xac 2"}).text, "1");
}

TEST(StopFilter, ASinkThatHasEnoughGetsNoMore) {
  int calls = 0;
  StopFilter filter({"END"}, [&](std::string_view) { return ++calls < 2; });
  EXPECT_TRUE(filter.push("a"));
  EXPECT_FALSE(filter.push("bEN"));
  EXPECT_FALSE(filter.push("c"));
  filter.flush();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(filter.text(), "ab");
  EXPECT_EQ(filter.hit(), "");
}

TEST(StopFilter, NothingPassesAfterAStop) {
  StopFilter filter({"."}, nullptr);
  EXPECT_FALSE(filter.push("a.b"));
  EXPECT_FALSE(filter.push("c"));
  filter.flush();
  EXPECT_EQ(filter.text(), "a");
}

// However a text is cut into pieces, the result is that of searching the whole text.
TEST(StopFilter, PiecesDoNotMatter) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](std::size_t most) {
      std::string w;
      for (std::size_t n = 1 + random() % most; n > 0; --n)
        w += static_cast<char>('a' + random() % 2);
      return w;
    };
    const Pieces stops = {word(5), word(5)};
    Pieces pieces;
    std::string all;
    for (int i = 0; i < 8; ++i) all += pieces.emplace_back(word(3));
    // The first moment at which a stop string is complete decides, then the earliest beginning.
    std::string want = all;
    bool hit = false;
    std::string seen;
    for (const std::string& piece : pieces) {
      seen += piece;
      const std::size_t cut = std::min(seen.find(stops[0]), seen.find(stops[1]));
      if (cut == std::string::npos) continue;
      want = all.substr(0, cut);
      hit = true;
      break;
    }
    const Outcome o = run(stops, pieces);
    ASSERT_EQ(o.text, want) << stops[0] << " " << stops[1] << " in " << all;
    ASSERT_EQ(o.hit, hit);
  }
}

}  // namespace
}  // namespace kt::session
