// Measures the rates that decide where a step's experts are computed (expert_rates.h): on the first
// step of many rows, a layer's experts are timed on the CPU, with few and with more rows, and
// streamed to the GPU, with rows dealt out evenly.
// Thread rule: as Step.
#pragma once
#include <functional>

#include "operators/expert_rates.h"
#include "operators/expert_stream.h"

namespace kt::operators {

/// Computes rows of x on the CPU as the routing says, n_each for every expert that has any.
using ExpertsOnCpu =
    std::function<void(Activation& x, const Routing& routing, std::int64_t n_each)>;

/// Takes milliseconds. The rates are known afterwards.
ExpertRates measure_experts(Step& step, ExpertStream& stream, ExpertStream::Layer layer,
                            Activation& x, std::int64_t n_active, const ExpertsOnCpu& on_cpu);

}  // namespace kt::operators
