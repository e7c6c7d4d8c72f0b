// Which steps on GPUs are recorded as graphs: of few rows, when a shape comes again. What was not
// used for the longest time gives way: its shape, or, for pinned memory, its programs.
//
//   find(shape) → programs: run the step with them → none: launch the step, then launched(shape)
//
// Thread rule: used by the engine's thread.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "operators/gpu_step.h"

namespace kt::engine {

class StepGraphs {
 public:
  using Programs = std::vector<std::unique_ptr<operators::GpuProgram>>;  // one for each GPU

  explicit StepGraphs(std::size_t most_bytes = operators::GpuProgram::kAllBytes)
      : most_bytes_(most_bytes) {}

  /// The programs of a shape that was launched before, recorded or to be recorded by this step;
  /// null: it is to be launched, as shapes for whose transfers there is no pinned memory always
  /// are.
  const Programs* find(const operators::StepShape& shape,
                       std::span<const std::unique_ptr<operators::GpuStep>> gpus);
  /// Remembers a step of this shape, which was launched and has ended.
  void launched(const operators::StepShape& shape,
                std::span<const std::unique_ptr<operators::GpuStep>> gpus);
  void clear() { entries_.clear(); }

 private:
  static constexpr std::size_t kShapes = 32;
  struct Entry {
    operators::StepShape shape;
    std::vector<operators::GpuProgram::Size> sizes;  // on each GPU
    Programs programs;
    bool worthwhile = true;
    std::uint64_t used = 0;
    std::size_t bytes() const;  // on the GPU with most
  };
  void make_room(const Entry& wanted);
  std::size_t most_bytes_;  // of pinned memory on a GPU
  std::vector<Entry> entries_;
  std::uint64_t clock_ = 0;
};

}  // namespace kt::engine
