// The logits of a step as the engine takes them: rows in host memory, or lists of the largest of
// each row while the rows are on a GPU, until the next step begins there; those that are wanted
// whole are fetched.
//
//   run the model with target() and lists → list(i) says enough → done
//                                         → none, or not enough → row(i)
//
// Rows of a prompt that all want their logits would take more memory than all else: they are made a
// piece of rows at a time, when row() asks for the first of it.
// Thread rule: the engine's thread.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/sampler.h"
#include "operators/step.h"

namespace kt::engine {

class StepLogits {
 public:
  /// Steps of more rows, as prompts have whose logits are asked for, bring them to host memory.
  static constexpr std::size_t kMostListed = 512;

  StepLogits() = default;
  explicit StepLogits(tensor::MatrixF rows) : rows_(rows) {}
  tensor::MatrixF target() const { return rows_; }
  operators::LogitLists& lists() { return lists_; }

  /// Rows of a piece at most, and when there are more in all, kMostInPiece / 2 at least.
  static constexpr std::int64_t kMostInPiece = 64;
  /// Makes logits [n, vocab_size] of rows [first, first + n).
  using Make = std::function<void(std::int64_t first, tensor::MatrixF logits)>;
  StepLogits(std::int64_t n_rows, std::int64_t vocab_size, Make make);

  /// In host memory, until one of another piece is asked for. Throws when a GPU fails.
  std::span<const float> row(std::int64_t i);
  /// None when there is only the row.
  std::optional<ShortList> list(std::int64_t i) const;
  /// Whether no logit is NaN or infinite.
  bool finite(std::int64_t i);
  /// Brings all rows to host memory, from where another step takes the GPU's, but for those that
  /// are made anew. Throws like row().
  void fetch_all();
  /// The list of a row names its largest logit, or there is none.
  bool list_agrees(std::int64_t i);

 private:
  void make_piece_of(std::int64_t i);
  tensor::MatrixF rows_;
  operators::LogitLists lists_;
  std::vector<bool> fetched_;
  Make make_;
  tensor::Buffer piece_;
  std::int64_t begin_ = 0, end_ = 0;  // of the piece that is there
};

}  // namespace kt::engine
