// How long something takes on a machine with other programs.
// Thread rule: pure.
#pragma once
#include <algorithm>
#include <chrono>
#include <limits>

namespace kt {

/// Least of some runs of f(): other programs only add time.
template <class F>
double least_seconds(int runs, F&& f) {
  using Clock = std::chrono::steady_clock;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    f();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return least;
}

}  // namespace kt
