// Lists of rows and experts, in chunks and pieces.
#include "operators/pair_lists.h"

#include <gtest/gtest.h>

namespace kt::operators {
namespace {

using Ids = std::vector<std::int32_t>;

class PairListsTest : public ::testing::Test {
 protected:
  // Three rows with two experts each.
  Ids ids_ = {4, 1, 1, 2, 4, 0};
  std::vector<float> weights_ = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
  Routing routing_{2, ids_.data(), weights_.data()};
  std::vector<Ids> chunks_ = {{0, 1}, {3}, {2, 4}};
};

TEST_F(PairListsTest, ChunksInOrderWithTheNeighboursOfEachRow) {
  const PairLists lists = list_pairs(chunks_, Ids{0, 1, 2, 4}, routing_, 3, 5, 100);
  EXPECT_EQ(lists.x_rows, (Ids{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(lists.ids, (Ids{1, 1, 0, 1, 0, 1}));
  EXPECT_EQ(lists.weights, (std::vector<float>{0.2f, 0.3f, 0.6f, 0.1f, 0.4f, 0.5f}));
  EXPECT_EQ(lists.to_rows, (Ids{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(lists.begins, (Ids{0, 1, 2, 3, 0, 1, 2, 3}));
  ASSERT_EQ(lists.pieces.size(), 3u);
  EXPECT_TRUE(lists.pieces[1].empty());
  ASSERT_EQ(lists.pieces[2].size(), 1u);
  const PairLists::Piece& last = lists.pieces[2][0];
  EXPECT_EQ(last.begin, 3);
  EXPECT_EQ(last.n, 3);
  EXPECT_EQ(last.to_begin, 3);
  EXPECT_EQ(last.n_to, 3);
  EXPECT_EQ(last.begins_begin, 4);
}

TEST_F(PairListsTest, PiecesMayDivideARow) {
  chunks_ = {{0, 1, 2, 3, 4}};
  const PairLists lists = list_pairs(chunks_, Ids{0, 1, 2, 4}, routing_, 3, 5, 3);
  ASSERT_EQ(lists.pieces[0].size(), 2u);
  EXPECT_EQ(lists.x_rows, (Ids{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(lists.to_rows, (Ids{0, 1, 1, 2}));
  EXPECT_EQ(lists.begins, (Ids{0, 2, 3, 0, 1, 3}));
  EXPECT_EQ(lists.pieces[0][1].begin, 3);
  EXPECT_EQ(lists.pieces[0][1].to_begin, 2);
  EXPECT_EQ(lists.pieces[0][1].n_to, 2);
  EXPECT_EQ(lists.pieces[0][1].begins_begin, 3);
}

TEST_F(PairListsTest, OnlyWhatIsWanted) {
  ids_[2] = -1;
  const PairLists lists = list_pairs(chunks_, Ids{1}, routing_, 3, 5, 100);
  EXPECT_EQ(lists.x_rows, (Ids{0}));
  EXPECT_TRUE(lists.pieces[2].empty());
}

}  // namespace
}  // namespace kt::operators
