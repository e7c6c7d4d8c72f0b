#include "operators/expert_rates.h"

#include <algorithm>

namespace kt::operators {

std::vector<std::int32_t> streamed_experts(const ExpertRates& rates, std::vector<ExpertLoad> loads,
                                           std::size_t expert_bytes, std::int64_t n_rows) {
  constexpr double kStart = 100e-6;  // seconds until the first weights are there
  // A divided step must promise so much, of which about half comes true: copies and products share
  // the memory, and rows go back and forth.
  constexpr double kWorth = 0.7;
  std::stable_sort(loads.begin(), loads.end(), [](const ExpertLoad& a, const ExpertLoad& b) {
    return a.sent != b.sent ? a.sent : a.rows > b.rows;
  });
  const double here = rates.step_row * static_cast<double>(n_rows);
  double cpu = 0.0;
  for (const ExpertLoad& load : loads)
    cpu += rates.expert + rates.row * static_cast<double>(load.rows);
  double best = here + cpu, copied = 0.0, computed = 0.0;
  std::size_t n_streamed = 0;
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const auto rows = static_cast<double>(loads[i].rows);
    cpu -= rates.expert + rates.row * rows;
    computed += rows * rates.gpu_row;
    copied += static_cast<double>(expert_bytes) / rates.link;
    const double gpu = kStart + std::max(copied, computed);
    const double later = i + 1 == loads.size() ? gpu : std::max(gpu, here + cpu);
    if (later >= best && (i + 1 < loads.size() || kWorth * later > best)) continue;
    best = later;
    n_streamed = i + 1;
  }
  std::vector<std::int32_t> streamed;
  for (std::size_t i = 0; i < n_streamed; ++i) streamed.push_back(loads[i].expert);
  std::sort(streamed.begin(), streamed.end());
  return streamed;
}

}  // namespace kt::operators
