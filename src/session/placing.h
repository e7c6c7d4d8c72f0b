// Placing a model as the user's flags say: the rule file or the planner decides, the context and
// the largest format that would fit are found. Sessions and `kt plan` are the callers. Thread rule:
// one thread.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "io/weight_source.h"
#include "placement/planner.h"

namespace kt::session {

inline constexpr int kAllGpus = -1;

/// How a model is to run, as far as planning needs it.
struct RunOptions {
  int n_threads = 0;              // 0: physical cores allowed to this process
  std::string act = "q16";        // q8, q16 or f32
  std::string kv = "f16";         // f32, f16, bf16, f8_e4m3, q8_0
  std::int64_t context = 0;       // 0: the model's, limited to 8192 and to what fits
  std::int64_t cache_tokens = 0;  // in the cache, of all requests together; 0: context
  std::int64_t chunk_size = 0;    // rows of a step; 0: 512, or 2048 where experts are streamed
  std::string stream_experts = "auto";  // to GPUs, of prompts: auto, on or off
  std::string expert_cache = "auto";    // on GPUs, of the CPU's experts: auto, fixed or off
  std::string rules;                    // YAML rule file; empty: the planner decides
  std::vector<std::string> plugins;     // shared objects with operators
  std::string device;                   // of modules that no rule matches; empty: cpu
  int gpus = kAllGpus;                  // GPUs of this machine to use at most, if there are any
  std::uint64_t gpu_memory = 0;  // bytes of each GPU's memory to use at most; 0: what is free
  std::string gpu_plugin;        // file of the GPU plug-in; empty: GpuLibrary::find
};

/// Where it is to run.
struct Place {
  placement::Machine machine;
  placement::Packing packing;
  operators::Devices devices;  // that rules may name
};

/// A warning about the rule file or the flags, of one or more whole lines.
using OnWarning = std::function<void(const std::string&)>;

/// Throws as placement::plan and read_rules; kUnsupported for numerics that the GPUs in use do not
/// have. `measure`: the plan gets a report, with these rates when the machine has none
/// (PlanOptions).
placement::Plan place(const io::WeightSource& source, const Place& place, const RunOptions& options,
                      const OnWarning& on_warning,
                      const placement::PlanOptions::Measure& measure = {});

}  // namespace kt::session
