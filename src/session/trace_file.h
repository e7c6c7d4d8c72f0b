// Trace zones as a file for chrome://tracing or ui.perfetto.dev, and summed up per module.
//
//   {"traceEvents": [{"name": "model.layers.3.mlp.experts", "cat": "Experts", "ph": "X", "ts": µs,
//     "dur": µs, "args": {"op": "KExpertsCPU", "device": "cpu", "rows": 1, …}}, …]}
//
// One track per device. Thread rule: pure, but for the file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "operators/trace.h"

namespace kt::session {

/// Writes the zones so far. Throws kIo.
void write_chrome_trace(const operators::Trace& trace, const std::string& path);

/// Time of one zone without the zones inside it.
struct SelfTime {
  const operators::Module* module = nullptr;
  std::int64_t nanoseconds = 0;
  std::int64_t n_rows = 0;
};
/// One entry per zone.
std::vector<SelfTime> self_times(const operators::Trace& trace);

}  // namespace kt::session
