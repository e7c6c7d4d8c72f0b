#include "io/gguf_export.h"

#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "base/error.h"

namespace kt::io {
namespace {

std::string_view gguf_architecture(const ModelConfig& c) {
  const std::string& a = c.architecture;
  if (a == "llama" || a == "mistral" || a == "mixtral") return "llama";
  if (a == "qwen2" || a == "qwen3") return a;
  if (a == "qwen2_moe") return "qwen2moe";
  if (a == "qwen3_moe") return "qwen3moe";
  if (a == "deepseek_v2" || a == "deepseek_v3" || a == "kimi_k2") return "deepseek2";
  fail(ErrorCode::kUnsupported, {}, "the architecture '{}' has no GGUF name in this build", a);
}

class Exporter {
 public:
  Exporter(const ModelConfig& config, GgufWriter& out)
      : c_(config), out_(out), arch_(gguf_architecture(config)) {}

  void general(std::uint32_t file_type) {
    out_.add_string("general.architecture", arch_);
    if (!c_.name.empty()) out_.add_string("general.name", c_.name);
    out_.add_u32("general.file_type", file_type);
    out_.add_u32("general.quantization_version", 2);
    sampling();
  }

  void sampling() {
    const auto number = [this](const char* key, const std::optional<double>& value) {
      if (value) out_.add_f32(key, static_cast<float>(*value));
    };
    const SamplingAdvice& advice = c_.sampling;
    number("general.sampling.temp", advice.temperature);
    if (advice.top_k) {
      out_.add_i32("general.sampling.top_k", static_cast<std::int32_t>(*advice.top_k));
    }
    number("general.sampling.top_p", advice.top_p);
    number("general.sampling.min_p", advice.min_p);
    number("general.sampling.penalty_repeat", advice.repetition_penalty);
  }

  void decoder() {
    u32("block_count", c_.n_layers);
    u32("context_length", c_.max_context);
    u32("embedding_length", c_.d_model);
    if (c_.d_ff > 0) u32("feed_forward_length", c_.d_ff);
    u32("vocab_size", c_.vocab_size);
    u32("attention.head_count", c_.n_heads);
    u32("attention.head_count_kv", c_.n_kv_heads);
    f32("attention.layer_norm_rms_epsilon", c_.norm_eps);
    if (c_.sliding_window > 0) u32("attention.sliding_window", c_.sliding_window);
    if (c_.full_attention_layers > 0)
      u32("attention.full_attention_layers", c_.full_attention_layers);
    if (c_.mla.kv_lora_rank > 0) {
      mla();
    } else {
      u32("attention.key_length", c_.head_dim);
      u32("attention.value_length", c_.head_dim);
      u32("rope.dimension_count", c_.head_dim);
    }
  }

  void rope() {
    const RopeConfig& r = c_.rope;
    f32("rope.freq_base", r.theta);
    if (r.kind != RopeKind::kLinear && r.kind != RopeKind::kYarn) return;
    const bool yarn = r.kind == RopeKind::kYarn;
    out_.add_string(key("rope.scaling.type"), yarn ? "yarn" : "linear");
    f32("rope.scaling.factor", r.factor);
    if (!yarn) return;
    if (r.original_context > 0) u32("rope.scaling.original_context_length", r.original_context);
    f32("rope.scaling.yarn_beta_fast", r.beta_fast);
    f32("rope.scaling.yarn_beta_slow", r.beta_slow);
    // Readers multiply the factor that follows from the scaling by this one.
    if (c_.mla.kv_lora_rank == 0 && r.attention_factor != 0.0) {
      f32("rope.scaling.yarn_attn_factor", r.attention_factor / (1.0 + 0.1 * std::log(r.factor)));
    }
    if (r.mscale_all_dim != 0.0) f32("rope.scaling.yarn_log_multiplier", 0.1 * r.mscale_all_dim);
  }

  void moe() {
    const MoeConfig& m = c_.moe;
    if (m.n_experts == 0) return;
    u32("expert_count", m.n_experts);
    u32("expert_used_count", m.n_active);
    u32("expert_feed_forward_length", m.d_ff);
    if (arch_ == "llama") return;
    out_.add_bool(key("expert_weights_norm"), m.normalize_weights);
    if (arch_ == "qwen2moe") u32("expert_shared_feed_forward_length", m.d_ff_shared);
    if (arch_ != "deepseek2") return;
    u32("expert_shared_count", m.n_shared);
    u32("leading_dense_block_count", m.n_dense_layers);
    f32("expert_weights_scale", m.weight_scale);
    u32("expert_gating_func", m.score == RouterScore::kSigmoid ? 2 : 1);
    u32("expert_group_count", m.n_groups);
    u32("expert_group_used_count", m.n_groups_used);
  }

 private:
  void mla() {
    const MlaConfig& m = c_.mla;
    if (m.q_lora_rank > 0) u32("attention.q_lora_rank", m.q_lora_rank);
    u32("attention.kv_lora_rank", m.kv_lora_rank);
    u32("attention.key_length", m.qk_nope_dim + m.qk_rope_dim);
    u32("attention.value_length", m.v_head_dim);
    u32("rope.dimension_count", m.qk_rope_dim);
  }
  std::string key(std::string_view suffix) const { return arch_ + "." + std::string(suffix); }
  void u32(std::string_view suffix, std::int64_t value) {
    out_.add_u32(key(suffix), static_cast<std::uint32_t>(value));
  }
  void f32(std::string_view suffix, double value) {
    out_.add_f32(key(suffix), static_cast<float>(value));
  }

  const ModelConfig& c_;
  GgufWriter& out_;
  std::string arch_;
};

}  // namespace

void export_config(const ModelConfig& config, std::uint32_t file_type, GgufWriter& writer) {
  Exporter exporter(config, writer);
  exporter.general(file_type);
  exporter.decoder();
  exporter.rope();
  exporter.moe();
}

void copy_metadata(const GgufMetadata& metadata, const HeaderChanges& changes, GgufWriter& writer) {
  const std::string arch(metadata.get_string("general.architecture"));
  std::map<std::string, std::uint64_t, std::less<>> replaced;
  std::set<std::string, std::less<>> dropped = {"general.file_type", "general.quantization_version",
                                                "general.alignment"};
  // Prediction layers are not copied, so they must not be counted either.
  const std::string layers = arch + ".block_count", mtp = arch + ".nextn_predict_layers";
  if (const std::uint64_t n_mtp = metadata.get_u64(mtp, 0); n_mtp > 0) {
    replaced[layers] = metadata.get_u64(layers) - n_mtp;
    dropped.insert(mtp);
  }
  // Where the *_mla lengths are given, the others describe the cache of the split matrices.
  const std::string attention = arch + ".attention.";
  for (const char* length : {"key_length", "value_length"}) {
    const std::string key = attention + length, of_model = key + "_mla";
    if (!changes.joint_kv_b || !metadata.has(of_model)) continue;
    replaced[key] = metadata.get_u64(of_model);
    replaced[attention + "head_count_kv"] = metadata.get_u64(attention + "head_count");
    dropped.insert(of_model);
  }
  if (!changes.name.empty()) {
    dropped.insert("general.name");
    writer.add_string("general.name", changes.name);
  }
  for (const GgufMetadata::Item& item : metadata.items()) {
    if (dropped.contains(item.key) || item.key.substr(0, 6) == "split.") continue;
    if (const auto it = replaced.find(item.key); it != replaced.end()) {
      writer.add_u32(item.key, static_cast<std::uint32_t>(it->second));
    } else {
      writer.add_value(item.key, item.value);
    }
  }
  writer.add_u32("general.file_type", changes.file_type);
  writer.add_u32("general.quantization_version", 2);
}

std::vector<float> export_rope_factors(const ModelConfig& c) {
  const RopeConfig& r = c.rope;
  if (r.kind != RopeKind::kLlama3) return r.freq_factors;
  constexpr double kTwoPi = 6.283185307179586;
  const auto original =
      static_cast<double>(r.original_context > 0 ? r.original_context : c.max_context);
  std::vector<float> factors;
  for (std::int64_t i = 0; i < c.head_dim; i += 2) {
    const double wavelength =
        kTwoPi * std::pow(r.theta, static_cast<double>(i) / static_cast<double>(c.head_dim));
    double factor = 1.0;
    if (wavelength > original / r.low_freq_factor) {
      factor = r.factor;
    } else if (wavelength >= original / r.high_freq_factor) {
      const double smooth =
          (original / wavelength - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
      factor = 1.0 / ((1.0 - smooth) / r.factor + smooth);
    }
    factors.push_back(static_cast<float>(factor));
  }
  return factors;
}

}  // namespace kt::io
