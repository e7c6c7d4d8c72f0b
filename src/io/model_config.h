// What a model is, independent of the file it came from: one flat record that the readers of HF
// config.json (hf_config) and of GGUF metadata (gguf_config) fill, and that model files validate
// and read. Names follow docs/architecture.md's glossary; 0 or empty means "the model has no such
// thing". Thread rule: a value.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kt::io {

enum class RopeKind { kDefault, kLinear, kLlama3, kYarn };

/// Rotary position embedding parameters. Yarn: arXiv 2309.00071 with DeepSeek's mscale pair; Llama
/// 3: frequency-dependent interpolation as in Transformers' modeling_rope_utils.
struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  std::int64_t original_context = 0;  // 0: max_context
  double low_freq_factor = 1.0;       // llama3
  double high_freq_factor = 4.0;      // llama3
  double beta_fast = 32.0;            // yarn
  double beta_slow = 1.0;             // yarn
  double attention_factor = 0.0;  // yarn: multiplies cos and sin; 0: derived from factor and mscale
  double mscale = 0.0;            // yarn, DeepSeek
  double mscale_all_dim = 0.0;    // yarn, DeepSeek
  bool truncate = true;           // yarn: round the correction range to whole dimensions
  std::vector<float>
      freq_factors;  // per-frequency divisors carried by a GGUF file (rope_freqs.weight)
};

enum class RouterScore { kSoftmax, kSigmoid };

struct MoeConfig {
  std::int64_t n_experts = 0;
  std::int64_t n_active = 0;               // experts per token
  std::int64_t d_ff = 0;                   // width of one routed expert
  std::int64_t n_shared = 0;               // shared experts fused into one MLP
  std::int64_t d_ff_shared = 0;            // width of that MLP
  std::int64_t n_dense_layers = 0;         // first layers with a dense MLP
  std::int64_t layer_step = 1;             // every layer_step-th layer is sparse
  std::vector<std::int64_t> dense_layers;  // further layers with a dense MLP (mlp_only_layers)
  RouterScore score = RouterScore::kSoftmax;
  bool normalize_weights = false;  // selected weights sum to one
  double weight_scale = 1.0;       // routed_scaling_factor
  std::int64_t n_groups = 1;       // group-limited routing
  std::int64_t n_groups_used = 1;
  bool group_top2 = false;  // a group scores by the sum of its best two (V3) instead of its best
  bool correction_bias = false;  // e_score_correction_bias steers the selection (V3)
  double swiglu_limit =
      0.0;                   // gate at most this, up within ± this, before silu(gate) * up; 0: none
  bool shared_gate = false;  // a sigmoid gate scales the shared expert (Qwen2-MoE)
};

struct MlaConfig {
  std::int64_t q_lora_rank = 0;  // 0: a single q_proj
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_dim = 0;
  std::int64_t qk_rope_dim = 0;
  std::int64_t v_head_dim = 0;
};

/// Sampling values that the makers of a model advise (HF generation_config.json, GGUF
/// general.sampling.*); absent: no advice. Checked: each is in the range its comment names.
struct SamplingAdvice {
  std::optional<double> temperature;         // 0 to 100; 0: always the likeliest
  std::optional<std::int64_t> top_k;         // 0 to 2^30; 0: off
  std::optional<double> top_p;               // 0 to 1
  std::optional<double> min_p;               // 0 to 1
  std::optional<double> typical_p;           // 0 to 1
  std::optional<double> repetition_penalty;  // above 0, at most 100
};

struct ModelConfig {
  std::string architecture;   // HF model_type: llama, mistral, qwen2, qwen3, mixtral, qwen2_moe,
                              // qwen3_moe, deepseek_v2, deepseek_v3, kimi_k2
  std::string name;           // for people; may be empty
  std::int64_t n_layers = 0;  // decoder layers of the main model
  std::int64_t n_mtp_layers = 0;  // prediction layers stored after them (DeepSeek-V3), not loaded
  std::int64_t d_model = 0;
  std::int64_t d_ff = 0;  // width of a dense MLP
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t head_dim = 0;  // of q and k in GQA attention; unused with MLA
  std::int64_t vocab_size = 0;
  std::int64_t max_context = 0;
  double norm_eps = 1e-6;
  bool tied_embeddings = false;
  bool attention_bias = false;      // q, k and v projections have a bias
  bool attention_out_bias = false;  // o projection too
  bool mlp_bias = false;
  std::int64_t sliding_window = 0;  // tokens a query may look back, itself included; 0: all
  std::int64_t full_attention_layers =
      0;  // first layers that ignore the window (max_window_layers)
  RopeConfig rope;
  MoeConfig moe;  // n_experts == 0: dense
  MlaConfig mla;  // kv_lora_rank == 0: GQA
  std::int64_t bos_token = -1;
  std::vector<std::int64_t> eos_tokens;
  SamplingAdvice sampling;
  bool sparse_layer(std::int64_t layer) const;  // whether this layer has routed experts
};

}  // namespace kt::io
