#include "session/bench/statistics.h"

#include <algorithm>
#include <cmath>

namespace kt::session::bench {
namespace {

double percentile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(at));
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Summary summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {percentile(samples, 0.5), percentile(samples, 0.1), percentile(samples, 0.9),
          static_cast<std::int64_t>(samples.size())};
}

std::vector<bool> slower_than_next(const std::vector<double>& times) {
  constexpr double kSlack = 1.03;
  std::vector<bool> marks(times.size(), false);
  for (std::size_t i = 0; i + 1 < times.size(); ++i) marks[i] = times[i] > kSlack * times[i + 1];
  return marks;
}

}  // namespace kt::session::bench
