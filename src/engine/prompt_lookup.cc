#include "engine/prompt_lookup.h"

#include <algorithm>

namespace kt::engine {
namespace {

constexpr std::int64_t kLongestMatch = 4, kShortestMatch = 2;
constexpr double kMemory = 0.9;       // of older guesses, per guess
constexpr double kFading = 0.98;      // per step without one
constexpr double kNewest = 0.2;       // weight of a step's time among those of its rows
constexpr std::int64_t kStale = 512;  // steps after which a time is not believed any more

}  // namespace

std::vector<std::int32_t> look_up(std::span<const std::int32_t> tokens, std::int64_t most) {
  const auto n = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t length = kLongestMatch; length >= kShortestMatch; --length) {
    if (n <= length || most <= 0) continue;
    const auto tail = tokens.last(static_cast<std::size_t>(length));
    for (std::int64_t at = n - length - 1; at >= 0; --at) {
      if (!std::equal(tail.begin(), tail.end(), tokens.begin() + at)) continue;
      const auto next = tokens.subspan(static_cast<std::size_t>(at + length));
      const auto count = std::min(static_cast<std::size_t>(most), next.size());
      return {next.begin(), next.begin() + static_cast<std::ptrdiff_t>(count)};
    }
  }
  return {};
}

void Acceptance::record(std::int64_t n_drafted, std::int64_t n_accepted) {
  hits_ = kMemory * hits_ + static_cast<double>(n_accepted);
  trials_ = kMemory * trials_ + static_cast<double>(std::min(n_accepted + 1, n_drafted));
}

void Acceptance::fade() {
  hits_ *= kFading;
  trials_ *= kFading;
}

std::vector<std::int32_t> Drafts::choose(std::span<const std::int32_t> tokens,
                                         Acceptance& acceptance, std::int64_t n_rows,
                                         std::int64_t most) const {
  std::vector<std::int32_t> draft = look_up(tokens, std::min({most, kMost, kMostRows - n_rows}));
  if (draft.empty()) return draft;
  const double p = acceptance.probability();
  double made = static_cast<double>(n_rows), best = made / seconds(n_rows), chance = 1.0;
  std::size_t best_length = 0;
  for (std::size_t length = 1; length <= draft.size(); ++length) {
    made += chance *= p;
    const double rate = made / seconds(n_rows + static_cast<std::int64_t>(length));
    if (rate <= best) continue;
    best = rate;
    best_length = length;
  }
  draft.resize(best_length);
  if (draft.empty()) acceptance.fade();
  return draft;
}

void Drafts::record(std::int64_t n_rows, double seconds) {
  ++step_;
  if (n_rows > kMostRows) return;
  Cost& cost = costs_[static_cast<std::size_t>(n_rows)];
  const bool fresh = cost.step != 0 && step_ - cost.step <= kStale;
  cost.seconds = fresh ? cost.seconds + kNewest * (seconds - cost.seconds) : seconds;
  cost.step = step_;
}

// The nearest measured step with at most as many rows: what is not known is hoped to be free, and
// so gets measured.
double Drafts::seconds(std::int64_t n_rows) const {
  for (std::int64_t n = n_rows; n > 0; --n) {
    const Cost& cost = costs_[static_cast<std::size_t>(n)];
    if (cost.step != 0 && step_ - cost.step <= kStale) return cost.seconds;
  }
  return 1.0;
}

}  // namespace kt::engine
