#include "engine/step_logits.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/canary.h"
#include "operators/activation.h"
#include "operators/placement.h"

namespace kt::engine {

StepLogits::StepLogits(std::int64_t n_rows, std::int64_t vocab_size, Make make)
    : make_(std::move(make)) {
  const std::int64_t most = std::min(n_rows, kMostInPiece);
  piece_ = tensor::Buffer(static_cast<std::size_t>(most * vocab_size) * sizeof(float));
  rows_ = {piece_.as<float>(), n_rows, vocab_size, vocab_size};
}

// Pieces of like size, so that none has the few rows that are computed in another way.
void StepLogits::make_piece_of(std::int64_t i) {
  const std::int64_t n = rows_.n_rows, n_pieces = (n + kMostInPiece - 1) / kMostInPiece;
  const auto end_of = [&](std::int64_t piece) { return (piece + 1) * n / n_pieces; };
  std::int64_t piece = i * n_pieces / n;
  while (end_of(piece) <= i) ++piece;
  begin_ = end_ = 0;  // none, should it throw
  const std::int64_t begin = end_of(piece - 1), end = end_of(piece);
  make_(begin, {rows_.data, end - begin, rows_.n_cols, rows_.stride});
  begin_ = begin;
  end_ = end;
}

std::span<const float> StepLogits::row(std::int64_t i) {
  if (make_) {
    if (i < begin_ || i >= end_) make_piece_of(i);
    return {rows_.row(i - begin_), static_cast<std::size_t>(rows_.n_cols)};
  }
  if (lists_.gpu != nullptr) {
    fetched_.resize(static_cast<std::size_t>(rows_.n_rows));
    if (!fetched_[static_cast<std::size_t>(i)]) {
      operators::GpuStep& gpu = *lists_.gpu;
      const operators::GpuStep::Fetch fetch{lists_.rows + i * rows_.n_cols,
                                            operators::GpuType::kF32, rows_.rows(i, 1)};
      gpu.recover();  // from what another row ran into
      gpu.download({&fetch, 1});
      if (!gpu.error().empty())
        fail(gpu.error_code(), operators::gpu_name(gpu.index()), "{}", gpu.error());
      fetched_[static_cast<std::size_t>(i)] = true;
    }
  }
  return {rows_.row(i), static_cast<std::size_t>(rows_.n_cols)};
}

std::optional<ShortList> StepLogits::list(std::int64_t i) const {
  if (lists_.gpu == nullptr) return std::nullopt;
  const auto& list = lists_.lists[static_cast<std::size_t>(i)];
  if (list.n == 0) return std::nullopt;
  const auto n = static_cast<std::size_t>(list.n);
  return ShortList{{list.ids, n}, {list.logits, n}, rows_.n_cols,
                   list.sum,      list.scaled_sum,  operators::LogitLists::kSumError};
}

bool StepLogits::finite(std::int64_t i) { return list(i).has_value() || engine::finite(row(i)); }

void StepLogits::fetch_all() {
  if (make_) return;
  for (std::int64_t i = 0; i < rows_.n_rows; ++i) row(i);
}

bool StepLogits::list_agrees(std::int64_t i) {
  const auto list = this->list(i);
  if (!list) return true;
  const std::span<const float> logits = row(i);
  const auto best = std::max_element(logits.begin(), logits.end());
  return list->ids[0] == best - logits.begin() && list->logits[0] == *best;
}

}  // namespace kt::engine
