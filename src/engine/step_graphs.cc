#include "engine/step_graphs.h"

#include <algorithm>

namespace kt::engine {

using operators::GpuProgram;
using operators::StepShape;

const StepGraphs::Programs* StepGraphs::find(
    const StepShape& shape, std::span<const std::unique_ptr<operators::GpuStep>> gpus) {
  const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return e.shape == shape; });
  if (entry == entries_.end() || !entry->worthwhile) return nullptr;
  entry->used = ++clock_;
  try {
    while (entry->programs.size() < gpus.size()) {
      const std::size_t i = entry->programs.size();
      entry->programs.push_back(std::make_unique<GpuProgram>(gpus[i]->gpu(), entry->sizes[i]));
    }
  } catch (const Error&) {  // no pinned memory is left
    entry->worthwhile = false;
    entry->programs.clear();
    return nullptr;
  }
  return &entry->programs;
}

void StepGraphs::launched(const StepShape& shape,
                          std::span<const std::unique_ptr<operators::GpuStep>> gpus) {
  if (gpus.empty() || shape.n_rows >= backend::kBatchRows) return;
  const auto known = [&](const Entry& e) { return e.shape == shape; };
  if (std::any_of(entries_.begin(), entries_.end(), known)) return;
  if (entries_.size() == kShapes) {
    entries_.erase(std::min_element(entries_.begin(), entries_.end(),
                                    [](const auto& a, const auto& b) { return a.used < b.used; }));
  }
  Entry entry{shape, {}, {}, true, ++clock_};
  for (const auto& gpu : gpus) {
    entry.sizes.push_back(gpu->transferred());
    entry.worthwhile &= gpu->transferred().bytes <= kMostBytes;
  }
  entries_.push_back(std::move(entry));
}

}  // namespace kt::engine
