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
  if (entry->programs.empty()) make_room(*entry);
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

std::size_t StepGraphs::Entry::bytes() const {
  std::size_t most = 0;
  for (const GpuProgram::Size& size : sizes) most = std::max(most, size.bytes);
  return most;
}

// Programs of other shapes give way until there is memory for an entry's.
void StepGraphs::make_room(const Entry& wanted) {
  std::vector<Entry*> others;
  std::size_t bytes = wanted.bytes();
  for (Entry& e : entries_) {
    if (e.programs.empty()) continue;
    others.push_back(&e);
    bytes += e.bytes();
  }
  std::sort(others.begin(), others.end(), [](auto* a, auto* b) { return a->used < b->used; });
  for (auto e = others.begin(); e != others.end() && bytes > most_bytes_; ++e) {
    bytes -= (*e)->bytes();
    (*e)->programs.clear();  // recorded anew when the shape comes
  }
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
    entry.worthwhile &= gpu->transferred().bytes <= GpuProgram::kMostBytes;
  }
  entries_.push_back(std::move(entry));
}

}  // namespace kt::engine
