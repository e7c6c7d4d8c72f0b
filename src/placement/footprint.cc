#include "placement/footprint.h"

#include <algorithm>
#include <map>

#include "placement/layer_path.h"

namespace kt::placement {
namespace {

using operators::Recode;

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

class Collector {
 public:
  Collector(const operators::Placement& placement, const io::WeightSource& source,
            const Packing& packing)
      : placement_(placement), source_(source), packing_(packing) {}

  void add(operators::Module& module) {
    ModuleCost cost;
    cost.path = module.path();
    cost.kind = module.kind();
    cost.op = module.op();
    cost.device = module.site().device;
    cost.part = part_of(module);
    cost.layer = split_layer(cost.path).number;
    const auto& entry = placement_.at(cost.path);
    cost.reason = entry.reason;
    recode_ = recode_of(entry, cost.op);
    if (module.kind() == "Attention") {
      add_latent(module, cost);
    } else {
      for (const operators::WeightSpec& spec : module.weights()) add_weight(spec, cost);
    }
    const auto* linear = dynamic_cast<const operators::Linear*>(&module);
    if (linear != nullptr && cost.matrices.empty()) {  // tied: its own copy of the embedding
      add_weight({"model.embed_tokens.weight", {linear->n_out(), linear->n_in()}}, cost);
      cost.file_bytes = 0;
    }
    if (cost.matrices.empty() && cost.vector_bytes == 0) return;
    finish(cost);
    modules_.push_back(std::move(cost));
  }

  std::vector<ModuleCost> take() { return std::move(modules_); }

 private:
  void add_weight(const operators::WeightSpec& spec, ModuleCost& cost) {
    const io::TensorInfo& info = operators::require_tensor(source_, spec);
    cost.file_bytes += formats::row_bytes(info.format, info.shape.n_cols()) *
                       static_cast<std::uint64_t>(info.shape.n_rows());
    if (spec.shape.rank() < 2) {
      cost.vector_bytes += static_cast<std::uint64_t>(spec.shape.count()) * sizeof(float);
      return;
    }
    const bool as_stored = cost.part == Part::kEmbedding;
    add_matrix({as_stored ? info.format : recode_.target(info.format), info.shape.n_rows(),
                info.shape.n_cols(), 1},
               info.format, cost);
  }

  static void add_matrix(const Matrix& matrix, formats::Format stored, ModuleCost& cost) {
    for (std::size_t i = 0; i < cost.matrices.size(); ++i) {
      Matrix& m = cost.matrices[i];
      if (m.format != matrix.format || m.n != matrix.n || m.k != matrix.k ||
          cost.stored[i] != stored) {
        continue;
      }
      m.count += matrix.count;
      return;
    }
    cost.matrices.push_back(matrix);
    cost.stored.push_back(stored);
  }

  // kv_b of latent attention: K_b transposed to F16, V_b as stored, one matrix per head; or a file
  // that has both apart.
  void add_latent(operators::Module& module, ModuleCost& cost) {
    const io::ModelConfig& c = source_.config();
    for (const operators::WeightSpec& spec : module.weights()) {
      if (!spec.name.ends_with(".kv_b_proj.weight")) {
        add_weight(spec, cost);
        continue;
      }
      const io::TensorInfo* joint = source_.find(spec.name);
      const io::TensorInfo* k_b = source_.find(cost.path + ".k_b_proj.weight");
      const io::TensorInfo* v_b = source_.find(cost.path + ".v_b_proj.weight");
      const bool split = joint == nullptr && k_b != nullptr && v_b != nullptr;
      const io::TensorInfo& info = split ? *v_b : operators::require_tensor(source_, spec);
      const formats::Format dense =
          packing_.act == backend::ActPolicy::kF32 ? formats::Format::kF32 : formats::Format::kF16;
      add_matrix({split ? k_b->format : dense, c.mla.kv_lora_rank, c.mla.qk_nope_dim, c.n_heads},
                 info.format, cost);
      add_matrix({info.format, c.mla.v_head_dim, c.mla.kv_lora_rank, c.n_heads}, info.format, cost);
      if (expands(cost)) {  // K_b the other way round as well
        add_matrix({split ? dense : info.format, c.mla.qk_nope_dim, c.mla.kv_lora_rank, c.n_heads},
                   info.format, cost);
      }
      for (const io::TensorInfo* t : {split ? k_b : &info, split ? v_b : nullptr}) {
        if (t == nullptr) continue;
        cost.file_bytes += formats::row_bytes(t->format, t->shape.n_cols()) *
                           static_cast<std::uint64_t>(t->shape.n_rows());
      }
    }
  }

  // Whether prompts may get keys and values per head.
  bool expands(const ModuleCost& cost) const {
    const auto& kwargs = placement_.at(cost.path).kwargs;
    const auto it = kwargs.find("absorb_for_prefill");
    const bool* absorb = it == kwargs.end() ? nullptr : std::get_if<bool>(&it->second);
    return absorb != nullptr ? !*absorb : cost.op != "KLatentAttention";
  }

  void finish(ModuleCost& cost) const {
    for (const Matrix& m : cost.matrices) {
      const std::string name(formats::traits(m.format).name);
      if (!contains("+" + cost.format + "+", "+" + name + "+")) {
        cost.format += (cost.format.empty() ? "" : "+") + name;
      }
    }
    if (cost.matrices.empty()) cost.format = "F32";
    cost.bytes = bytes_on(cost, on_cpu(cost.device, packing_), packing_);
  }

  const operators::Placement& placement_;
  const io::WeightSource& source_;
  Packing packing_;
  Recode recode_;
  std::vector<ModuleCost> modules_;
};

}  // namespace

std::string_view part_name(Part part) {
  constexpr std::string_view kNames[kParts] = {"attention", "shared experts", "dense layers",
                                               "experts",   "norms, routers", "embedding",
                                               "head"};
  return kNames[static_cast<int>(part)];
}

operators::Recode recode_of(const operators::Placement::Entry& entry, std::string_view op) {
  const auto whole = [&](std::string_view name, std::int64_t fallback) {
    const auto it = entry.kwargs.find(name);
    const auto* value = it == entry.kwargs.end() ? nullptr : std::get_if<std::int64_t>(&it->second);
    return value == nullptr ? fallback : *value;
  };
  if (op == "KLinearTorch" || op == "KExpertsTorch") return {Recode::Kind::kDense};
  if (op == "KLinearQ8") return {Recode::Kind::kGroup, 8, -1};
  if (op == "KLinearMarlin" || op == "VLinearMarlin" || op == "KExpertsMarlin") {
    return {Recode::Kind::kGroup, whole("num_bits", 4), whole("group_size", 64)};
  }
  const auto it = entry.kwargs.find("backend");
  const auto* backend = it == entry.kwargs.end() ? nullptr : std::get_if<std::string>(&it->second);
  if (op != "KExpertsCPU" || backend == nullptr) return {};
  if (*backend == "AMXInt8") return {Recode::Kind::kGroup, 8, -1};
  if (*backend == "AMXInt4") return {Recode::Kind::kGroup, 4, -1};
  if (*backend == "AMXBF16") return {Recode::Kind::kBf16};
  return {};
}

bool on_cpu(const std::string& device, const Packing& packing) {
  return device == "cpu" || !packing.gpus;
}

std::uint64_t resident_bytes(std::uint64_t bytes) {
  constexpr std::uint64_t kHuge = std::uint64_t{2} << 20;
  constexpr std::uint64_t kHeader = 16;  // of an allocation
  return bytes >= kHuge ? (bytes + kHuge - 1) / kHuge * kHuge : (bytes + 63) / 64 * 64 + kHeader;
}

std::uint64_t bytes_on(const ModuleCost& module, bool cpu, const Packing& packing) {
  std::uint64_t bytes = module.vector_bytes;
  for (const Matrix& m : module.matrices) {
    const auto stored = formats::row_bytes(m.format, m.k) * static_cast<std::uint64_t>(m.n);
    const std::uint64_t one = cpu && module.part != Part::kEmbedding
                                  ? resident_bytes(backend::packed_matrix_bytes(
                                        packing.caps, packing.act, m.format, m.n, m.k))
                                  : stored;
    bytes += one * static_cast<std::uint64_t>(m.count);
  }
  return bytes;
}

std::vector<ModuleCost> footprint(operators::Model& model, const operators::Placement& placement,
                                  const io::WeightSource& source, const Packing& packing) {
  Collector collector(placement, source, packing);
  operators::walk(model, [&](operators::Module& module) { collector.add(module); });
  return collector.take();
}

namespace {

struct RowBytes {
  double f32 = 0.0;  // values kept as floats, per row
  double q8 = 0.0;   // values kept as int8 with scale and sum
};

bool quantized(formats::Format format) { return formats::traits(format).block_len > 1; }

// What running a module keeps per row until its layer ends.
RowBytes row_bytes_of(const ModuleCost& m, const io::ModelConfig& c) {
  RowBytes r;
  const auto heads = static_cast<double>(c.n_heads);
  const auto d = static_cast<double>(c.d_model);
  if (m.kind == "Linear") {
    if (m.matrices.empty()) return r;
    const Matrix& w = m.matrices.front();
    const bool writes_delta = m.path.ends_with(".o_proj") || m.path.ends_with(".down_proj");
    if (!writes_delta) r.f32 += static_cast<double>(w.n);
    if (m.path.ends_with(".o_proj")) r.f32 += static_cast<double>(w.k);  // what attention wrote
    const bool second = m.path.ends_with(".k_proj") || m.path.ends_with(".v_proj") ||
                        m.path.ends_with(".up_proj") ||
                        m.path.ends_with(".kv_a_proj_with_mqa");  // input quantised by its sibling
    if (quantized(w.format) && !second) r.q8 += static_cast<double>(w.k);
  } else if (m.kind == "Attention") {
    r.f32 += heads * static_cast<double>(2 * c.mla.kv_lora_rank + c.mla.qk_rope_dim);
    for (const Matrix& w : m.matrices) {
      if (quantized(w.format)) r.q8 += heads * static_cast<double>(w.k);
    }
  } else if (m.kind == "Gate") {
    r.f32 += static_cast<double>(2 * c.moe.n_experts + 2 * c.moe.n_active);
  } else if (m.kind == "Experts" && !m.matrices.empty()) {
    const auto active = static_cast<double>(c.moe.n_active);
    const auto d_ff = static_cast<double>(c.moe.d_ff);
    const bool q = quantized(m.matrices.front().format);
    const bool q_down = quantized(m.matrices.back().format);
    r.f32 += d + 2 * active + (q ? 0.0 : active * d) + (q_down ? 0.0 : active * d_ff);
    r.q8 += (q ? d + active * d : 0.0) + (q_down ? active * d_ff : 0.0);
  }
  return r;
}

}  // namespace

std::uint64_t workspace_bytes(const io::ModelConfig& c, const std::vector<ModuleCost>& modules,
                              std::int64_t chunk, const Packing& packing) {
  const double q8 = packing.act == backend::ActPolicy::kF32   ? 0.0
                    : packing.act == backend::ActPolicy::kQ16 ? 2.5
                                                              : 1.25;
  std::map<std::int64_t, double> layers;  // bytes per row
  for (const ModuleCost& m : modules) {
    if (m.layer < 0) continue;
    const RowBytes r = row_bytes_of(m, c);
    layers[m.layer] += 4.0 * r.f32 + q8 * r.q8;
  }
  double widest = 0.0;
  for (const auto& [layer, bytes] : layers) widest = std::max(widest, bytes);
  const bool latent = c.mla.kv_lora_rank > 0;
  const std::int64_t dim_v = latent ? c.mla.kv_lora_rank : c.head_dim;
  const std::int64_t dim_qk = latent ? dim_v + c.mla.qk_rope_dim : dim_v;
  const double per_row = widest + 4.0 * static_cast<double>(3 * c.d_model + dim_qk);
  const auto n_threads = static_cast<double>(packing.n_threads);
  constexpr double kExpertsScratch = 3.0 * 64 * 64 * 4;
  const double scratch =
      n_threads * (4.0 * static_cast<double>(kernels::attention::scratch_floats(dim_qk, dim_v)) +
                   (c.moe.n_experts > 0 ? kExpertsScratch : 0.0));
  const double outputs = 4.0 * static_cast<double>(c.vocab_size + 2 * c.d_model);
  return static_cast<std::uint64_t>(per_row * static_cast<double>(chunk) + scratch + outputs);
}

}  // namespace kt::placement
