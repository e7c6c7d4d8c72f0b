// Sizes of the work items of routed experts on the CPU, for the vector kernels or for the tile
// kernels, which expand weights once per call and so want more rows and columns of each.
// Thread rule: values.
#pragma once
#include <cstdint>

#include "backend/cpu/cpu.h"

namespace kt::operators {

struct ExpertBlocking {
  std::int64_t panel = 64;        // rows per kernel call, at most
  std::int64_t ff_chunk = 64;     // columns of h per task: two quantisation blocks
  std::int64_t model_chunk = 64;  // output columns per task
  std::int64_t align = 1;         // of the first row of each expert
  std::int64_t beside = 0;        // rows of an expert up to which products are made several at once
  /// What a thread takes for results of gate and up, and of down.
  std::int64_t gate_up_floats() const { return 2 * panel * ff_chunk; }
  std::int64_t down_floats() const { return panel * model_chunk; }
};

/// Of few rows, where products are made several at once (backend::beside_rows): gate beside up,
/// down of four experts. Small tasks then, of about 10 µs, keep all threads busy to the end.
constexpr ExpertBlocking few_blocking(std::int64_t beside) { return {64, 32, 16, 1, beside}; }

constexpr ExpertBlocking tile_blocking(std::int64_t d_model, std::int64_t n_threads) {
  constexpr std::int64_t kWidest = 256;  // times panel floats stay in L2
  // Every output column costs the same, so whole rounds over the threads balance.
  const std::int64_t rounds = (d_model + kWidest * n_threads - 1) / (kWidest * n_threads);
  const std::int64_t per_task = (d_model + rounds * n_threads - 1) / (rounds * n_threads);
  return {384, 128, (per_task + 31) / 32 * 32, kernels::dot::kTileRows, 0};
}

}  // namespace kt::operators
