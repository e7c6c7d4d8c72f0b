#include "operators/hot_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kt::operators {

std::int64_t HotExperts::n_held() const {
  return std::count_if(expert_in_.begin(), expert_in_.end(), [](auto e) { return e >= 0; });
}

void HotExperts::expect(std::span<const float> uses) {
  const double rows = kHalfLife / std::log(2.0);  // what ageing leaves of endlessly many
  for (std::size_t e = 0; e < use_.size(); ++e) use_[e] = static_cast<float>(uses[e] * rows);
}

std::vector<std::int32_t> HotExperts::most_used() const {
  std::vector<std::int32_t> experts(use_.size());
  std::iota(experts.begin(), experts.end(), 0);
  std::stable_sort(experts.begin(), experts.end(), [&](std::int32_t a, std::int32_t b) {
    return use_[static_cast<std::size_t>(a)] > use_[static_cast<std::size_t>(b)];
  });
  return experts;
}

void HotExperts::put(std::int32_t expert, std::int32_t slot) {
  drop(slot);
  expert_in_[static_cast<std::size_t>(slot)] = expert;
  slot_of_[static_cast<std::size_t>(expert)] = slot;
}

void HotExperts::drop(std::int32_t slot) {
  std::int32_t& expert = expert_in_[static_cast<std::size_t>(slot)];
  if (expert >= 0) slot_of_[static_cast<std::size_t>(expert)] = -1;
  expert = -1;
}

// Many rows at once count as if their choices were spread evenly over them.
void HotExperts::age() {
  if (fresh_rows_ == 0) return;
  const double halvings = static_cast<double>(fresh_rows_) / kHalfLife;
  const double kept = std::exp2(-halvings);
  const auto old = static_cast<float>(kept);
  const auto fresh = static_cast<float>((1.0 - kept) / (halvings * std::log(2.0)));
  for (std::size_t e = 0; e < use_.size(); ++e) {
    use_[e] = use_[e] * old + static_cast<float>(fresh_[e]) * fresh;
    fresh_[e] = 0;
  }
  fresh_rows_ = 0;
}

std::optional<HotExperts::Change> HotExperts::change() const {
  std::int32_t hot = -1, cold = -1;
  float most = 0.0f, least = 0.0f;
  for (std::int32_t e = 0; e < static_cast<std::int32_t>(use_.size()); ++e) {
    const float use = use_[static_cast<std::size_t>(e)];
    if (holds(e) || use <= most) continue;
    most = use;
    hot = e;
  }
  if (hot < 0) return std::nullopt;
  for (std::int32_t slot = 0; slot < static_cast<std::int32_t>(expert_in_.size()); ++slot) {
    const std::int32_t held = expert_in_[static_cast<std::size_t>(slot)];
    if (held < 0) return Change{most, hot, slot};
    const float use = use_[static_cast<std::size_t>(held)];
    if (cold >= 0 && use >= least) continue;
    least = use;
    cold = slot;
  }
  if (cold < 0 || most - least <= kCertain * std::sqrt(most + least)) return std::nullopt;
  return Change{most - least, hot, cold};
}

}  // namespace kt::operators
