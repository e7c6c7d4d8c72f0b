#include "session/bench/routing.h"

#include <algorithm>
#include <numeric>

namespace kt::session::bench {

std::vector<std::int32_t> RoutingSequence::next_experts(std::int64_t layer) {
  unused_.resize(static_cast<std::size_t>(n_layers_));
  std::vector<std::int32_t>& unused = unused_[static_cast<std::size_t>(layer)];
  const auto k = static_cast<std::size_t>(n_active_);
  if (unused.size() < k) {
    unused.resize(static_cast<std::size_t>(n_experts_));
    std::iota(unused.begin(), unused.end(), 0);
    std::shuffle(unused.begin(), unused.end(), random_);
  }
  std::vector<std::int32_t> ids(unused.end() - static_cast<std::ptrdiff_t>(k), unused.end());
  unused.resize(unused.size() - k);
  return ids;
}

RoutedRows RoutingSequence::next(std::int64_t m) {
  RoutedRows rows;
  rows.layer = calls_++ % n_layers_;
  const auto k = static_cast<std::size_t>(n_active_);
  if (m == 1) {
    rows.ids = next_experts(rows.layer);
  } else {
    std::vector<std::int32_t> all(static_cast<std::size_t>(n_experts_));
    std::iota(all.begin(), all.end(), 0);
    for (std::int64_t r = 0; r < m; ++r) {
      for (std::size_t i = 0; i < k; ++i) {  // the first k of a shuffle
        const auto j = static_cast<std::size_t>(std::uniform_int_distribution<std::int64_t>(
            static_cast<std::int64_t>(i), n_experts_ - 1)(random_));
        std::swap(all[i], all[j]);
        rows.ids.push_back(all[i]);
      }
    }
  }
  std::vector<bool> used(static_cast<std::size_t>(n_experts_), false);
  for (const std::int32_t id : rows.ids) used[static_cast<std::size_t>(id)] = true;
  rows.n_distinct = std::count(used.begin(), used.end(), true);
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  for (std::int64_t r = 0; r < m; ++r) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < k; ++i) {
      rows.weights.push_back(uniform(random_));
      sum += rows.weights.back();
    }
    for (std::size_t i = 0; i < k; ++i) rows.weights[rows.weights.size() - 1 - i] /= sum;
  }
  return rows;
}

}  // namespace kt::session::bench
