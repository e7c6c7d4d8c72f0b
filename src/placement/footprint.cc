#include "placement/footprint.h"

#include <algorithm>
#include <map>

#include "operators/attend.h"
#include "operators/expand.h"
#include "operators/expert_blocking.h"
#include "operators/expert_stream.h"
#include "operators/phased.h"
#include "placement/layer_path.h"

namespace kt::placement {
namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

Part part_of(const operators::Module& module) {
  const std::string& path = module.path();
  if (module.kind() == "Embedding") return Part::kEmbedding;
  if (module.kind() == "Norm" || module.kind() == "Gate") return Part::kOther;
  if (module.kind() == "Experts") return Part::kExperts;
  if (path == "lm_head") return Part::kHead;
  if (contains(path, ".self_attn")) return Part::kAttention;
  if (contains(path, ".shared_expert")) return Part::kShared;
  return Part::kDense;
}

std::string format_text(const operators::Kept& kept) {
  if (kept.matrices.empty()) return "F32";
  std::string text;
  for (const operators::KeptMatrix& m : kept.matrices) {
    const std::string name(formats::traits(m.format).name);
    if (!contains("+" + text + "+", "+" + name + "+")) text += (text.empty() ? "" : "+") + name;
  }
  return text;
}

// The GPU of the module above, which exchanges rows with experts on the CPU.
std::optional<int> gpu_of_block(const std::string& path, const operators::Placement& placement) {
  const std::size_t dot = path.rfind('.');
  if (placement.devices.emulated || dot == std::string::npos) return {};
  return operators::gpu_index(placement.at(std::string_view(path).substr(0, dot)).device);
}

}  // namespace

std::string_view part_name(Part part) {
  constexpr std::string_view kNames[kParts] = {"attention", "shared experts", "dense layers",
                                               "experts",   "norms, routers", "embedding",
                                               "head"};
  return kNames[static_cast<int>(part)];
}

bool on_cpu(const std::string& device, const Packing& packing) {
  return device == "cpu" || !packing.gpus;
}

std::uint64_t resident_bytes(std::uint64_t bytes) {
  constexpr std::uint64_t kHuge = std::uint64_t{2} << 20;
  constexpr std::uint64_t kHeader = 16;  // of an allocation
  return bytes >= kHuge ? (bytes + kHuge - 1) / kHuge * kHuge : (bytes + 63) / 64 * 64 + kHeader;
}

std::uint64_t bytes_on(const operators::Kept& kept, bool packed, const Packing& packing) {
  std::uint64_t bytes = kept.vector_bytes;
  for (const operators::KeptMatrix& m : kept.matrices) {
    const auto count = static_cast<std::uint64_t>(m.count);  // in one buffer
    bytes += packed ? resident_bytes(count * backend::packed_matrix_bytes(packing.caps, packing.act,
                                                                          m.format, m.n, m.k))
                    : count * formats::row_bytes(m.format, m.k) * static_cast<std::uint64_t>(m.n);
  }
  return bytes;
}

bool can_stream(const ModuleCost& experts) {
  const auto& m = experts.kept.matrices;
  return !m.empty() && operators::can_stream(m.front().format, m.front().format, m.back().format);
}

std::vector<ModuleCost> footprint(operators::Model& model, const operators::Placement& placement,
                                  const io::WeightSource& source, const Packing& packing) {
  std::vector<ModuleCost> modules;
  operators::walk(model, [&](operators::Module& module) {
    ModuleCost cost;
    cost.kept = module.kept(source, packing.act);
    if (cost.kept.matrices.empty() && cost.kept.vector_bytes == 0) return;
    cost.path = module.path();
    cost.kind = module.kind();
    cost.op = module.op();
    cost.part = part_of(module);
    cost.device = cost.part == Part::kEmbedding ? "cpu" : module.site().device;
    cost.layer = split_layer(cost.path).number;
    cost.reason = placement.at(cost.path).reason;
    cost.format = format_text(cost.kept);
    const bool packed = cost.part != Part::kEmbedding && on_cpu(cost.device, packing);
    cost.bytes = bytes_on(cost.kept, packed, packing);
    if (const auto* experts = dynamic_cast<const operators::Experts*>(&module)) {
      if (cost.device == "cpu") cost.block_gpu = gpu_of_block(cost.path, placement);
      if (can_stream(cost)) {
        cost.streams_to = experts->streams_to();
        if (cost.streams_to) cost.streams = placement.stream_experts;
        cost.n_on_gpu = experts->n_on_gpu();
      }
    }
    if (const auto* phased = dynamic_cast<const operators::Phased*>(&module)) {
      const operators::Module& prefill = phased->in(operators::Phase::kPrefill);
      cost.prefill_device = prefill.site().device;
      cost.prefill_bytes = bytes_on(prefill.kept(source, packing.act),
                                    on_cpu(cost.prefill_device, packing), packing);
    }
    modules.push_back(std::move(cost));
  });
  return modules;
}

std::set<int> gpus_in_use(operators::Model& model, const operators::Placement& placement) {
  std::set<int> used;
  if (placement.devices.emulated) return used;
  const auto add = [&](const std::string& device) {
    if (const auto gpu = operators::gpu_index(device)) used.insert(*gpu);
  };
  operators::walk(model, [&](const operators::Module& m) {
    constexpr std::string_view kOnCpu[] = {"Model", "Decoder", "DecoderLayer", "Rotary",
                                           "Embedding"};
    if (std::find(std::begin(kOnCpu), std::end(kOnCpu), m.kind()) == std::end(kOnCpu))
      add(m.site().device);
    const auto* phased = dynamic_cast<const operators::Phased*>(&m);
    if (phased != nullptr && placement.layer_wise_threshold > 0)
      add(phased->in(operators::Phase::kPrefill).site().device);
  });
  return used;
}

std::uint64_t prefill_growth(const std::vector<ModuleCost>& modules, const Packing& packing,
                             const std::string& device) {
  const auto here = [&](const std::string& name) {
    return name == device || (device == "cpu" && on_cpu(name, packing));
  };
  std::map<std::int64_t, std::uint64_t> layers;
  for (const ModuleCost& m : modules) {
    if (m.layer < 0 || m.prefill_device.empty() || !here(m.prefill_device)) continue;
    const bool swaps = on_cpu(m.prefill_device, packing) && on_cpu(m.device, packing);
    const std::uint64_t dropped = swaps && here(m.device) ? m.bytes : 0;
    layers[m.layer] += m.prefill_bytes > dropped ? m.prefill_bytes - dropped : 0;
  }
  std::uint64_t most = 0;
  for (const auto& [layer, bytes] : layers) most = std::max(most, bytes);
  const bool loads = most > 0 && device != "cpu" && !on_cpu(device, packing);
  return loads ? most + backend::Gpu::kStagingBytes : most;
}

std::uint64_t waiting_rows_bytes(const io::ModelConfig& config,
                                 const operators::Placement& placement, std::int64_t context) {
  const std::int64_t threshold = placement.layer_wise_threshold;
  if (threshold <= 0 || context <= threshold) return 0;
  constexpr std::int64_t kMatrices = 2;  // the residual, and the last sublayer's output
  return resident_bytes(static_cast<std::uint64_t>(kMatrices * context * config.d_model) *
                        sizeof(float));
}

std::uint64_t stream_bytes(const io::ModelConfig& config, const std::vector<ModuleCost>& modules,
                           std::int64_t chunk, std::uint64_t gpu_bytes, ExpertWays ways) {
  std::size_t expert = 0;
  for (const ModuleCost& m : modules) {
    if (m.part != Part::kExperts || !can_stream(m)) continue;
    expert = std::max(
        expert, static_cast<std::size_t>(m.bytes) / static_cast<std::size_t>(config.moe.n_experts));
  }
  if (expert == 0 || (!ways.streamed && !ways.cached)) return 0;
  return (ways.streamed ? operators::stream_sizes(expert, gpu_bytes).total() : 0) +
         (ways.cached ? expert : 0) +
         operators::stream_step_bytes(config.moe, config.d_model, chunk);
}

std::uint64_t expert_bytes_on_gpu(const ModuleCost& experts, std::int64_t n_experts,
                                  std::int64_t n) {
  if (n == 0) return 0;  // all that a model without experts asks for
  const std::uint64_t all = bytes_on(experts.kept, false, {});
  return (all + static_cast<std::uint64_t>(n_experts) - 1) / static_cast<std::uint64_t>(n_experts) *
         static_cast<std::uint64_t>(n);
}

namespace {

struct RowBytes {
  double f32 = 0.0;      // values kept as floats, per row
  double rounded = 0.0;  // values kept as int8 with scale and sum, or as bf16
  double floats = 0.0;   // values multiplied as floats, or beside them as bf16
};

bool quantized(formats::Format format) { return formats::traits(format).block_len > 1; }

// What running a module keeps per row until its layer ends; rounds_rows: int8 tiles are used.
RowBytes row_bytes_of(const ModuleCost& m, const io::ModelConfig& c, bool rounds_rows) {
  RowBytes r;
  const auto heads = static_cast<double>(c.n_heads);
  const auto d = static_cast<double>(c.d_model);
  if (m.kind == "Linear") {
    if (m.kept.matrices.empty()) return r;
    const operators::KeptMatrix& w = m.kept.matrices.front();
    const bool writes_delta = m.path.ends_with(".o_proj") || m.path.ends_with(".down_proj");
    if (!writes_delta) r.f32 += static_cast<double>(w.n);
    if (m.path.ends_with(".o_proj")) r.f32 += static_cast<double>(w.k);  // what attention wrote
    const bool second = m.path.ends_with(".k_proj") || m.path.ends_with(".v_proj") ||
                        m.path.ends_with(".up_proj") ||
                        m.path.ends_with(".kv_a_proj_with_mqa");  // input quantised by its sibling
    if (!second) (quantized(w.format) ? r.rounded : r.floats) += static_cast<double>(w.k);
  } else if (m.kind == "Attention") {
    r.f32 += heads * static_cast<double>(2 * c.mla.kv_lora_rank + c.mla.qk_rope_dim);
    for (const operators::KeptMatrix& w : m.kept.matrices) {
      if (quantized(w.format)) r.rounded += heads * static_cast<double>(w.k);
    }
  } else if (m.kind == "Gate") {
    r.f32 += static_cast<double>(2 * c.moe.n_experts + 2 * c.moe.n_active);
  } else if (m.kind == "Experts" && !m.kept.matrices.empty()) {
    const auto active = static_cast<double>(c.moe.n_active);
    const auto d_ff = static_cast<double>(c.moe.d_ff);
    const bool q = quantized(m.kept.matrices.front().format);
    const operators::KeptMatrix& down = m.kept.matrices.back();
    const bool q_down = quantized(down.format);
    // What is rounded by rows waits for its last task as floats.
    if (rounds_rows && down.scales == backend::WeightScales::kOfRows) r.f32 += active * d_ff;
    r.f32 += d + 2 * active + (q ? 0.0 : active * d) + (q_down ? 0.0 : active * d_ff);
    r.rounded += (q ? d + active * d : 0.0) + (q_down ? active * d_ff : 0.0);
  }
  return r;
}

double attention_scratch(const io::ModelConfig& c, std::int64_t chunk, const Packing& packing) {
  const bool latent = c.mla.kv_lora_rank > 0;
  const std::int64_t dim_v = latent ? c.mla.kv_lora_rank : c.head_dim;
  const std::int64_t dim_qk = latent ? dim_v + c.mla.qk_rope_dim : dim_v;
  std::int64_t floats = operators::attend_floats(dim_qk, dim_v, packing.n_threads);
  if (latent) {
    floats = std::max(floats, operators::expand_floats(c.mla, chunk, packing.n_threads));
  }
  return 4.0 * static_cast<double>(floats);
}

double experts_scratch(const io::ModelConfig& c, bool bf16, const Packing& packing) {
  if (c.moe.n_experts == 0) return 0.0;
  const operators::ExpertBlocking blocking =
      bf16 ? operators::tile_blocking(c.d_model, packing.n_threads) : operators::ExpertBlocking{};
  const std::int64_t floats =
      packing.n_threads * (blocking.gate_up_floats() + blocking.down_floats());
  // Rows in bf16 that only fill up the last tile of each expert.
  const std::int64_t filling = c.moe.n_experts * (blocking.align - 1) * (c.d_model + c.moe.d_ff);
  return 4.0 * static_cast<double>(floats) + 2.0 * static_cast<double>(filling);
}

}  // namespace

std::uint64_t workspace_bytes(const io::ModelConfig& c, const std::vector<ModuleCost>& modules,
                              std::int64_t chunk, const Packing& packing) {
  const bool bf16 =
      chunk >= backend::kBatchRows &&
      backend::batch_kernels(packing.caps, packing.act) != backend::BatchKernels::kNone;
  const bool tiles = bf16 && (packing.caps & kAmx) != 0;
  double rounded = packing.act == backend::ActPolicy::kF32   ? 0.0
                   : packing.act == backend::ActPolicy::kQ16 ? 2.5
                                                             : 1.25;
  if (tiles) rounded = std::max(rounded, 2.0);
  std::map<std::int64_t, double> layers;  // bytes per row
  for (const ModuleCost& m : modules) {
    if (m.layer < 0) continue;
    const RowBytes r = row_bytes_of(m, c, tiles && packing.act == backend::ActPolicy::kQ8);
    layers[m.layer] += 4.0 * r.f32 + rounded * r.rounded + (bf16 ? 2.0 * r.floats : 0.0);
  }
  double widest = 0.0;
  for (const auto& [layer, bytes] : layers) widest = std::max(widest, bytes);
  const std::int64_t cached =
      c.mla.kv_lora_rank > 0 ? c.mla.kv_lora_rank + c.mla.qk_rope_dim : c.head_dim;
  const double per_row = widest + 4.0 * static_cast<double>(3 * c.d_model + cached);
  const double scratch = attention_scratch(c, chunk, packing) + experts_scratch(c, bf16, packing);
  const double outputs = 4.0 * static_cast<double>(c.vocab_size + 3 * c.d_model);
  return static_cast<std::uint64_t>(per_row * static_cast<double>(chunk) + scratch + outputs);
}

}  // namespace kt::placement
