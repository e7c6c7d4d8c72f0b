// Fills GPUs with modules: which module on which GPU, with which operator.
//
//   layers 0 … a on cuda:0, a+1 … b on cuda:1, …   in proportion to the GPUs' memory
//   per GPU: attention, norms, routers, shared experts, dense MLPs and cache of its layers; then
//   the routed experts of all those layers, if they fit; else as many of each layer, or those of as
//   many layers as fit, most expected traffic per byte first
//
// The operators that may be chosen are those of operators/planned.inc. Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "placement/footprint.h"
#include "placement/machine.h"
#include "tensor/kv_view.h"

namespace kt::placement {

/// How a module would be kept on a GPU.
struct GpuChoice {
  bool possible = false;
  std::string op;  // empty: the kind's default
  operators::Kwargs kwargs;
  std::uint64_t bytes = 0;
  double lost = 0.0;  // bits per weight
};
/// For each module. Equal modules of equal kept matrices are asked once.
std::vector<GpuChoice> gpu_choices(const io::WeightSource& source, const Packing& packing,
                                   const std::vector<ModuleCost>& modules);

struct FillInput {
  const io::ModelConfig& config;
  const std::vector<ModuleCost>& modules;
  const std::vector<GpuChoice>& choices;
  const std::vector<tensor::KvLayerSpec>& kv;
  formats::Format kv_format = formats::Format::kF16;
  const Machine& machine;
  std::int64_t context = 0;
  std::uint64_t workspace = 0;        // on each GPU
  std::vector<std::uint64_t> stream;  // on each that experts of the CPU go to
  bool caches = false;                // some of a layer's experts may be on its GPU
};

struct Assignment {
  std::vector<int> gpu;        // of each module; -1: the CPU
  std::vector<int> layer_gpu;  // of each layer's attention and cache; -1: the CPU
  std::vector<std::int64_t>
      n_on_gpu;  // of each module of experts on the CPU, how many are there too
};
Assignment fill_gpus(const FillInput& input);

/// Writes the assignment into a placement: entries with reasons, and the model's transfer map.
void place_on_gpus(operators::Model& model, const FillInput& input, const Assignment& assignment,
                   operators::Placement& placement);

}  // namespace kt::placement
