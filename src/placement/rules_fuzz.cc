// libFuzzer target of rule files: reads any bytes as rules, applies them to a small model of two
// architectures and builds it (without weights). Errors are fine, all else is a finding.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/hf_config.h"
#include "models/model.h"
#include "placement/rules.h"

namespace {

using kt::io::ModelConfig;

constexpr std::string_view kLatent = R"({
  "model_type": "deepseek_v3", "hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 263,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "num_attention_heads": 4,
  "num_key_value_heads": 4, "intermediate_size": 512, "moe_intermediate_size": 256,
  "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
  "first_k_dense_replace": 1, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
  "v_head_dim": 32, "q_lora_rank": 96, "norm_topk_prob": true, "scoring_func": "sigmoid",
  "topk_method": "noaux_tc", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5,
  "rope_theta": 10000.0, "rope_scaling": {"type": "yarn", "factor": 8.0, "beta_fast": 32,
  "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16}})";
constexpr std::string_view kGrouped = R"({
  "model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 263,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 512, "moe_intermediate_size": 256,
  "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": true, "rope_theta": 10000.0})";

void apply(const kt::placement::RuleFile& file, const ModelConfig& config) {
  static const auto catalogue = std::make_shared<const kt::operators::Catalogue>();
  try {
    const auto result = kt::placement::apply_rules(file, {config, catalogue, {2, true}, "cuda:1"});
    (void)kt::models::build_model(config, result.placement);
  } catch (const kt::Error& error) {
    if (error.code() == kt::ErrorCode::kInternal) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ModelConfig latent = kt::io::parse_hf_config(kLatent, "", "latent").model;
  static const ModelConfig grouped = kt::io::parse_hf_config(kGrouped, "", "grouped").model;
  try {
    const auto file = kt::placement::parse_rules(
        std::string(reinterpret_cast<const char*>(data), size), "fuzz.yaml");
    apply(file, latent);
    apply(file, grouped);
  } catch (const kt::Error& error) {
    if (error.code() != kt::ErrorCode::kBadFile) __builtin_trap();
  }
  return 0;
}
