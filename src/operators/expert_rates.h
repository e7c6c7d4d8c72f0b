// How fast the experts of a layer are on the CPU and streamed to a GPU, and how a step is divided
// by it:
//
//   CPU  rows · step_row + Σ experts (expert + row · m)      m: rows that the expert gets
//   GPU  start + max(Σ bytes / link, Σ m · gpu_row)
//
// Both work at the same time; experts that are on their way, then those with the most rows go to
// the GPU, as many as make the later of the two end first. What is on its way took the link's time
// from the layer before, so it counts as any other. Thread rule: values; measuring: as Step.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace kt::operators {

struct ExpertRates {
  double expert = 0.0, row = 0.0;  // seconds on the CPU: of an expert, and of each of its rows
  double step_row = 0.0;           // of each of the step's rows, when the CPU has any experts
  double link = 0.0;               // bytes per second; 0: nothing is known
  double gpu_row = 0.0;            // seconds; 0 where the link is what streaming waits for
  bool known() const { return link > 0.0; }
};

struct ExpertLoad {
  std::int32_t expert = 0;
  std::int64_t rows = 0;
  bool sent = false;  // its weights are on the way to the GPU already
};

/// The experts that go to the GPU. `loads`: those that have rows.
std::vector<std::int32_t> streamed_experts(const ExpertRates& rates, std::vector<ExpertLoad> loads,
                                           std::size_t expert_bytes, std::int64_t n_rows);

}  // namespace kt::operators
