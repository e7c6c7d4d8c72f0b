#include "session/placing.h"

#include <algorithm>

#include "operators/plugin.h"
#include "placement/rules.h"
#include "session/choices.h"
#include "session/dummy_source.h"

namespace kt::session {
namespace {

using placement::Machine;
using placement::PlanOptions;

double bits_of(const FileType& type) {
  const formats::FormatTraits& t = formats::traits(type.base);
  return 8.0 * static_cast<double>(t.block_bytes) / static_cast<double>(t.block_len);
}

// The file type with most bits per weight whose plan fits this machine, or empty.
std::string largest_format(const io::WeightSource& source, const Machine& machine,
                           PlanOptions options) {
  std::vector<FileType> types = file_types();
  std::stable_sort(types.begin(), types.end(),
                   [](const FileType& a, const FileType& b) { return bits_of(a) > bits_of(b); });
  double n_weights = 0.0;
  for (const io::TensorInfo& t : source.tensors())
    n_weights += static_cast<double>(t.shape.count());
  double room = static_cast<double>(machine.ram);
  for (const placement::Gpu& gpu : machine.gpus) room += static_cast<double>(gpu.bytes);
  options.largest_format = nullptr;
  options.report = false;
  std::erase_if(types, [&](const FileType& t) { return n_weights * bits_of(t) / 8.0 > room; });
  const auto fits = [&](const FileType& type) {
    try {
      const auto dummy = make_dummy_source(source.config(), type, {});
      placement::plan(*dummy, machine, options);
      return true;
    } catch (const Error& e) {
      if (e.code() == ErrorCode::kNoMemory || e.code() == ErrorCode::kUnsupported) return false;
      throw;
    }
  };
  const auto largest = std::partition_point(types.begin(), types.end(),
                                            [&](const FileType& type) { return !fits(type); });
  return largest == types.end() ? std::string() : std::string(largest->name);
}

operators::Placement read_rules(const io::ModelConfig& config, const operators::Devices& devices,
                                const RunOptions& options, bool only_plans,
                                const OnWarning& on_warning) {
  const auto catalogue = std::make_shared<operators::Catalogue>();
  for (const std::string& path : options.plugins) operators::load_plugin(*catalogue, path);
  placement::RuleContext context{config, catalogue, devices};
  if (!options.device.empty()) context.default_device = options.device;
  if (only_plans)
    context.gpu_hint = "--gpu 24GiB@1000GB/s, once for each, plans for GPUs that are not here";
  placement::RuleResult result = placement::read_rules(options.rules, context);
  for (const std::string& warning : result.warnings) {
    if (on_warning) on_warning(warning);
  }
  const auto& entries = result.placement.entries;
  const bool has_slots = std::any_of(entries.begin(), entries.end(), [](const auto& entry) {
    return entry.second.kwargs.contains("gpu_experts");
  });
  if (has_slots && options.expert_cache == "off" && on_warning)
    on_warning("warning: gpu_experts of " + options.rules +
               " has no effect, the expert cache is off\n");
  return std::move(result.placement);
}

// Throws kUnsupported for numerics that GPUs do not have.
void check_gpu_options(const RunOptions& options) {
  if (options.act == "f32") {
    fail(ErrorCode::kUnsupported, "--act",
         "f32: GPUs compute with bf16 activations; --gpus 0 uses none");
  }
  if (options.kv == "f16" || options.kv == "bf16" || options.kv == "f8_e4m3") return;
  fail(ErrorCode::kUnsupported, "--kv",
       "{}: GPUs keep keys and values in bf16 or f8_e4m3; --gpus 0 uses none", options.kv);
}

}  // namespace

placement::Plan place(const io::WeightSource& source, const Place& place, const RunOptions& options,
                      const OnWarning& on_warning, const PlanOptions::Measure& measure) {
  PlanOptions plan_options;
  plan_options.context = options.context;
  plan_options.cache_tokens = options.cache_tokens;
  if (options.cache_tokens > 0) {
    plan_options.default_context = std::min(plan_options.default_context, options.cache_tokens);
  }
  plan_options.chunk_size = options.chunk_size;
  plan_options.kv_format = kv_format(options.kv);
  plan_options.packing = place.packing;
  plan_options.stream_experts = stream_experts(options.stream_experts);
  plan_options.expert_cache = expert_cache(options.expert_cache);
  plan_options.report = measure != nullptr;
  plan_options.measure = measure;
  plan_options.largest_format = [&] { return largest_format(source, place.machine, plan_options); };
  operators::Placement given;
  if (!options.rules.empty()) {
    given = read_rules(source.config(), place.devices, options, measure != nullptr, on_warning);
    plan_options.given = &given;
  }
  placement::Plan plan = placement::plan(source, place.machine, plan_options);
  if (!placement::gpus_in_use(*plan.model, plan.placement).empty()) check_gpu_options(options);
  return plan;
}

}  // namespace kt::session
