// Predicts the time of a step from what each module reads and computes:
//
//   CPU product      CpuRates::seconds (measured points, or a roofline)
//   CPU attention    max(cache bytes / bandwidth, multiply-adds · measured time)
//   GPU module       max(bytes / bandwidth, operations / rate), of which kUsable is reached
//   streamed experts bytes of those that rows chose / link, where a step of many rows is faster so
//   hand-off         rows over the link plus a fixed latency, at every change of device
//
// Routed experts: a batch of n rows touches E · (1 - (1 - A/E)^n) of E experts, when each row takes
// A of them at random. Times of consecutive modules add up; shared experts and some of the routed
// ones on a GPU hide behind routed experts on the CPU. Thread rule: pure.
#pragma once
#include <array>
#include <vector>

#include "placement/footprint.h"
#include "placement/machine.h"
#include "tensor/kv_view.h"

namespace kt::placement {

enum class Resource { kRamBandwidth, kCpuCompute, kCpuOverhead, kGpuBandwidth, kGpuCompute, kLink };
inline constexpr int kResources = 6;
std::string_view resource_name(Resource resource);

struct StepTime {
  double seconds = 0.0;
  std::array<double, kResources> by_resource{};
  Resource limit() const;
};

struct StepShape {
  std::int64_t rows = 1;
  std::int64_t position = 0;  // tokens in the cache before the step
};

struct CostInput {
  const io::ModelConfig& config;
  const std::vector<ModuleCost>& modules;
  const std::vector<tensor::KvLayerSpec>& kv;
  formats::Format kv_format = formats::Format::kF16;
  const Machine& machine;
};

StepTime step_time(const CostInput& input, const StepShape& shape);

/// Bytes per token of one layer's cache.
std::uint64_t kv_layer_bytes(const tensor::KvLayerSpec& spec, formats::Format format);

/// Experts that n rows touch on average, of n_experts, when each takes n_active.
double touched_experts(std::int64_t n_experts, std::int64_t n_active, double n);

}  // namespace kt::placement
