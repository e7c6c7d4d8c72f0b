#include "engine/sequences.h"

#include <gtest/gtest.h>

#include "engine/test_toy_model.h"

namespace kt::engine {
namespace {

constexpr std::int64_t kVocab = ToyModel::kVocab;

class SequencesTest : public testing::Test {
 protected:
  Sequences make(std::int64_t n_tokens) {
    return Sequences(model_, cpu_, tensor::Format::kF32, n_tokens);
  }

  // The likeliest next token of each fed sequence.
  std::vector<std::int32_t> feed(Sequences& sequences, const std::vector<Sequences::Feed>& feeds) {
    Sequences::Rows rows = sequences.append(feeds);
    for (const operators::SequenceRows& s : rows.sequences)
      rows.logit_rows.push_back(static_cast<std::int32_t>(s.row_begin + s.n_rows - 1));
    tensor::Arena arena;
    const operators::Batch batch = rows.batch();
    operators::Step step{batch, cpu_, arena, sequences.kv()};
    const tensor::MatrixF logits =
        arena.matrix(static_cast<std::int64_t>(rows.logit_rows.size()), kVocab);
    model_.run(step, logits);
    sequences.commit(rows);
    std::vector<std::int32_t> best;
    for (std::int64_t r = 0; r < logits.n_rows; ++r) {
      const float* row = logits.row(r);
      best.push_back(static_cast<std::int32_t>(std::max_element(row, row + kVocab) - row));
    }
    return best;
  }

  std::int32_t alone(const std::vector<std::int32_t>& tokens) {
    Sequences one = make(1);
    one.select(std::vector<std::int64_t>{-1});
    return feed(one, {{0, tokens}}).front();
  }

  static std::vector<std::int32_t> tokens(std::int64_t n, std::int32_t salt) {
    std::vector<std::int32_t> out;
    for (std::int64_t i = 0; i < n; ++i)
      out.push_back(static_cast<std::int32_t>((i * 7 + salt * 13 + i * i % 5) % kVocab));
    return out;
  }

  static std::vector<std::int32_t> joined(std::vector<std::int32_t> a,
                                          const std::vector<std::int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  ToyModel model_;
  backend::Cpu cpu_{1, {}, 0, backend::ActPolicy::kF32};
};

TEST_F(SequencesTest, RaggedFeedsEqualEachAlone) {
  Sequences all = make(1);  // grows
  all.select(std::vector<std::int64_t>{-1, -1, -1});
  const auto a = tokens(70, 1), b = tokens(1, 2), c = tokens(130, 3), d = tokens(5, 4);
  EXPECT_EQ(feed(all, {{0, a}, {1, b}, {2, c}}),
            (std::vector<std::int32_t>{alone(a), alone(b), alone(c)}));
  EXPECT_EQ(feed(all, {{2, d}, {0, b}}),
            (std::vector<std::int32_t>{alone(joined(c, d)), alone(joined(a, b))}));
  EXPECT_EQ(all.length(0), 71);
  EXPECT_EQ(all.length(1), 1);
  EXPECT_EQ(all.length(2), 135);
}

TEST_F(SequencesTest, BeamsPartAndAreDropped) {
  Sequences beams = make(4 * 200);
  beams.select(std::vector<std::int64_t>{-1, -1});
  const auto a = tokens(100, 1), b = tokens(100, 2), x = tokens(3, 5), y = tokens(3, 6);
  feed(beams, {{0, a}, {1, b}});
  beams.select(std::vector<std::int64_t>{1, 1, 0});  // b, b, a
  EXPECT_EQ(
      feed(beams, {{0, x}, {1, y}, {2, y}}),
      (std::vector<std::int32_t>{alone(joined(b, x)), alone(joined(b, y)), alone(joined(a, y))}));
  beams.select(std::vector<std::int64_t>{2, -1});
  EXPECT_EQ(feed(beams, {{0, x}, {1, x}}),
            (std::vector<std::int32_t>{alone(joined(joined(a, y), x)), alone(x)}));
}

TEST_F(SequencesTest, RejectedTokensAreForgotten) {
  Sequences one = make(200);
  one.select(std::vector<std::int64_t>{-1});
  const auto a = tokens(66, 1), draft = tokens(9, 2), x = tokens(2, 3);
  feed(one, {{0, a}});
  one.select(std::vector<std::int64_t>{0, 0});
  feed(one, {{0, draft}});
  one.truncate(0, 60);
  EXPECT_EQ(one.length(0), 60);
  EXPECT_EQ(one.length(1), 66);
  const std::vector<std::int32_t> kept(a.begin(), a.begin() + 60);
  EXPECT_EQ(feed(one, {{0, x}, {1, x}}),
            (std::vector<std::int32_t>{alone(joined(kept, x)), alone(joined(a, x))}));
  one.truncate(0, 1000);  // longer than it is
  EXPECT_EQ(one.length(0), 62);
}

TEST_F(SequencesTest, RowsAreValidUntilTheSequencesChange) {
  Sequences one = make(200), other = make(200);
  one.select(std::vector<std::int64_t>{-1});
  other.select(std::vector<std::int64_t>{-1});
  const auto a = tokens(5, 1);
  const Sequences::Feed feed{0, a};
  const Sequences::Rows rows = one.append({&feed, 1});
  EXPECT_TRUE(one.are_valid(rows));
  EXPECT_FALSE(other.are_valid(rows));
  one.commit(rows);
  EXPECT_TRUE(one.are_valid(rows));
  const Sequences::Rows next = one.append({&feed, 1});
  EXPECT_FALSE(one.are_valid(rows));
  one.truncate(0, 3);
  EXPECT_FALSE(one.are_valid(next));
}

}  // namespace
}  // namespace kt::engine
