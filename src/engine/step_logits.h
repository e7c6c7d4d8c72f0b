// The logits of a step as the engine takes them: rows in host memory, or lists of the largest of
// each row while the rows are on a GPU, until the next step begins there; those that are wanted
// whole are fetched.
//
//   run the model with target() and lists → list(i) says enough → done
//                                         → none, or not enough → row(i)
// Thread rule: the engine's thread.
#pragma once
#include <cstdint>
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

  /// In host memory. Throws when a GPU fails.
  std::span<const float> row(std::int64_t i);
  /// None when there is only the row.
  std::optional<ShortList> list(std::int64_t i) const;
  /// Whether no logit is NaN or infinite.
  bool finite(std::int64_t i);
  /// Brings all rows to host memory, from where another step takes the GPU's. Throws like row().
  void fetch_all();
  /// The list of a row names its largest logit, or there is none.
  bool list_agrees(std::int64_t i);

 private:
  tensor::MatrixF rows_;
  operators::LogitLists lists_;
  std::vector<bool> fetched_;
};

}  // namespace kt::engine
