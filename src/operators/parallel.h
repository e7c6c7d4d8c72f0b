// Row loops of operators: parallel when the work outweighs the cost of a parallel region.
// Thread rule: called by the thread that walks the tree.
#pragma once
#include <cstdint>

#include "operators/activation.h"

namespace kt::operators {

/// f(row) for each row; `row_cost` is the number of values touched per row.
template <class F>
void for_rows(ThreadPool& pool, std::int64_t n_rows, std::int64_t row_cost, F&& f) noexcept {
  constexpr std::int64_t kWorthSplitting = 1 << 15;
  if (n_rows == 1 || n_rows * row_cost < kWorthSplitting) {
    for (std::int64_t r = 0; r < n_rows; ++r) f(r);
    return;
  }
  pool.run(n_rows, [&](std::int64_t r, int) { f(r); });
}
template <class F>
void for_rows(Step& step, std::int64_t n_rows, std::int64_t row_cost, F&& f) noexcept {
  for_rows(step.cpu.pool, n_rows, row_cost, std::forward<F>(f));
}

/// rows += delta (when given), and f(r) for each row after its sum.
template <class F>
void for_summed_rows(Step& step, Activation& rows, Activation* delta, F&& f) noexcept {
  const std::int64_t n = rows.n_cols();
  if (delta == nullptr) {
    for_rows(step, rows.n_rows(), n, f);
    return;
  }
  const ConstMatrixF x = delta->f32();
  const MatrixF sum = rows.update();
  for_rows(step, sum.n_rows, n, [&](std::int64_t r) {
    step.cpu.elementwise->add(x.row(r), n, sum.row(r));
    f(r);
  });
}

}  // namespace kt::operators
