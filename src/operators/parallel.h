// Row loops of operators: parallel when the work outweighs the cost of a parallel region.
// Thread rule: called by the thread that walks the tree.
#pragma once
#include <cstdint>

#include "operators/step.h"

namespace kt::operators {

/// f(row) for each row; `row_cost` is the number of values touched per row.
template <class F>
void for_rows(Step& step, std::int64_t n_rows, std::int64_t row_cost, F&& f) noexcept {
  constexpr std::int64_t kWorthSplitting = 1 << 15;
  if (n_rows == 1 || n_rows * row_cost < kWorthSplitting) {
    for (std::int64_t r = 0; r < n_rows; ++r) f(r);
    return;
  }
  step.cpu.pool.run(n_rows, [&](std::int64_t r, int) { f(r); });
}

}  // namespace kt::operators
