// Decides what runs where when there is no rule file, from headers only.
//
// GPUs: each takes a run of layers in proportion to its memory; of those it holds attention, shared
// experts, dense layers, routers, norms, the cache to the promised context and the workspace first,
// then routed experts: all of them, or as many of each layer, whose others the CPU computes at the
// same time; without such a cache, or where kernels for it are missing, by expected traffic per
// byte, a layer's experts at a time. What does not fit stays on the CPU, and so does the embedding,
// which is read a row at a time. A margin stays free everywhere. Without GPUs everything is on the
// CPU and the plan is a check of memory. Thread rule: pure.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "placement/cost_model.h"

namespace kt::placement {

struct PlanOptions {
  std::int64_t context = 0;  // tokens; 0: the model's, at most default_context, and what fits
  std::int64_t default_context = 8192;
  std::int64_t cache_tokens = 0;  // of the cache, where it holds more than one context
  std::int64_t chunk_size = 0;    // rows of a step; 0: kChunk, or kStreamedChunk where it helps
  formats::Format kv_format = formats::Format::kF16;
  operators::StreamExperts stream_experts = operators::StreamExperts::kAuto;
  operators::ExpertCacheMode expert_cache = operators::ExpertCacheMode::kAuto;
  Packing packing;
  /// Also finds the largest context that fits, speeds and hints.
  bool report = false;
  /// With a report, asked for the CPU's rates when the machine has none.
  using Measure = std::function<CpuRates(const std::vector<ModuleCost>&)>;
  Measure measure;
  /// A placement made by rules, to be explained and checked; null: the planner decides.
  const operators::Placement* given = nullptr;
  /// Asked when nothing fits: "Q3_K_M", the largest format that would, or empty.
  std::function<std::string()> largest_format;
};

inline constexpr std::int64_t kChunk = 512;
/// Where experts are streamed to a GPU: their weights go there once a step, however many its rows.
inline constexpr std::int64_t kStreamedChunk = 2048;

struct DevicePlan {
  std::string name;  // "cpu", "cuda:0"
  std::uint64_t capacity = 0;
  std::array<std::uint64_t, kParts> parts{};  // bytes by Part
  std::uint64_t kv = 0;
  std::uint64_t workspace = 0;
  std::uint64_t margin = 0;  // kept free for what is not counted
  std::uint64_t used() const;
  std::uint64_t free() const { return capacity > used() ? capacity - used() : 0; }
};

struct Speed {
  double load_seconds = 0.0;
  std::string load_limit;
  double prefill = 0.0;  // tokens per second of a prompt of `prompt` tokens
  std::int64_t prompt = 0;
  Resource prefill_limit{};
  double decode = 0.0;  // tokens per second near the start of the context
  std::int64_t decode_position = 0;
  Resource decode_limit{};
  double decode_full = 0.0;  // with the promised context full
};

struct Plan {
  operators::Placement placement;
  std::unique_ptr<operators::Model> model;  // built for the placement, not loaded
  std::int64_t context = 0;                 // promised
  std::int64_t chunk_size = 0;
  std::int64_t largest_context = 0;  // that would fit, at most the model's; with a report
  std::uint64_t weight_bytes = 0;    // all devices
  std::uint64_t file_bytes = 0;
  std::uint64_t kv_bytes_per_token = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t workspace_bytes = 0;  // of the CPU
  std::uint64_t peak_bytes = 0;     // that the process takes of the CPU's memory when all is in use
  std::vector<DevicePlan> devices;  // the CPU first
  std::vector<ModuleCost> modules;  // with the device and operator they got
  CpuRates rates;                   // that the speeds are from
  std::optional<Speed> speed;       // with a report, when the CPU's rates are known
  std::vector<std::string> hints;   // with a report: what to change, for people
};

/// Memory beside weights, cache and workspace that a machine must have: program, tokenizer, file
/// cache in use.
inline constexpr std::uint64_t kRamMargin = std::uint64_t{256} << 20;
/// What the program itself takes, before a model.
inline constexpr std::uint64_t kProgramBytes = std::uint64_t{12} << 20;
/// Free part of a GPU: its driver's context, fragments.
std::uint64_t gpu_margin(const Gpu& gpu);

/// Throws kNoMemory with a table of what is needed and what there is, the shortfall and what would
/// fit; kUsage for a context that the model does not have; kUnsupported and kMismatch as
/// models::build_model.
Plan plan(const io::WeightSource& source, const Machine& machine, const PlanOptions& options);

}  // namespace kt::placement
