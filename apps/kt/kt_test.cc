#include <gtest/gtest.h>

#include "base/suggest.h"
#include "print.h"

namespace kt::app {
namespace {

TEST(Suggest, CountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("rnu", "run"), 1u);
  EXPECT_EQ(edit_distance("--top-k", "--topk"), 1u);
}

TEST(Suggest, FindsTheNearestWordOrNothing) {
  const std::vector<std::string> known = {"run", "chat", "quantize", "inspect", "--max-tokens"};
  EXPECT_EQ(nearest("rnu", known), "run");
  EXPECT_EQ(nearest("quantise", known), "quantize");
  EXPECT_EQ(nearest("--max-token", known), "--max-tokens");
  EXPECT_EQ(nearest("--max", known), "--max-tokens");
  EXPECT_EQ(nearest("zzzzzz", known), std::nullopt);
  EXPECT_EQ(nearest("", known), std::nullopt);
  EXPECT_EQ(nearest(std::string(100000, 'x'), known), std::nullopt);
}

TEST(Print, ScalesNumbers) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(6.1 * 1024 * 1024), "6.1 MiB");
  EXPECT_EQ(format_bytes(377.0 * 1024 * 1024 * 1024), "377 GiB");
  EXPECT_EQ(format_count(134.5e6), "134 M");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_duration(0.25), "250 ms");
  EXPECT_EQ(format_duration(185), "3 min 05 s");
  EXPECT_EQ(format_duration(8040), "2 h 14 min");
  EXPECT_EQ(format_duration(-1), "?");
}

TEST(Print, AlignsColumnsByCharactersNotBytes) {
  Table table("lr");
  table.row({"é", "1"});
  table.row({"long", "22"});
  EXPECT_EQ(table.text(), "é      1\nlong  22\n");
  EXPECT_EQ(table.markdown(), "| é    |  1 |\n| ---- | -: |\n| long | 22 |\n");
}

}  // namespace
}  // namespace kt::app
