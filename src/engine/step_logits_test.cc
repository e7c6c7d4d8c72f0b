// Logits that are made a piece of rows at a time.
#include "engine/step_logits.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"

namespace kt::engine {
namespace {

TEST(StepLogits, PiecesAreOfLikeSizeAndMadeOnce) {
  for (const std::int64_t n : {1, 64, 65, 129, 2048, 3783}) {
    std::int64_t n_made = 0, n_rows = 0;
    StepLogits logits(n, 3, [&](std::int64_t first, tensor::MatrixF rows) {
      EXPECT_LE(rows.n_rows, StepLogits::kMostInPiece);
      EXPECT_GE(rows.n_rows, std::min(n, StepLogits::kMostInPiece / 2));
      ++n_made;
      n_rows += rows.n_rows;
      for (std::int64_t r = 0; r < rows.n_rows; ++r)
        std::fill_n(rows.row(r), rows.n_cols, static_cast<float>(first + r));
    });
    for (std::int64_t i = 0; i < n; ++i) {
      EXPECT_TRUE(logits.finite(i));
      ASSERT_EQ(logits.row(i).size(), 3u);
      EXPECT_EQ(logits.row(i)[2], static_cast<float>(i));
    }
    EXPECT_EQ(n_made, (n + StepLogits::kMostInPiece - 1) / StepLogits::kMostInPiece);
    EXPECT_EQ(n_rows, n);
    EXPECT_EQ(logits.row(0)[0], 0.0f);  // made anew
  }
}

TEST(StepLogits, APieceThatCannotBeMadeIsMadeAnew) {
  bool fails = false;
  StepLogits logits(100, 2, [&](std::int64_t first, tensor::MatrixF rows) {
    if (fails) fail(ErrorCode::kIo, "a GPU", "fails");
    std::fill_n(rows.row(0), 2, static_cast<float>(first));
  });
  EXPECT_EQ(logits.row(0)[0], 0.0f);
  fails = true;
  EXPECT_THROW(logits.row(50), Error);
  EXPECT_THROW(logits.row(0), Error);
  fails = false;
  EXPECT_EQ(logits.row(50)[0], 50.0f);
}

}  // namespace
}  // namespace kt::engine
