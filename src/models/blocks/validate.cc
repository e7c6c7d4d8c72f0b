#include "models/blocks/validate.h"

namespace kt::models {

void validate_decoder(const io::ModelConfig& c) {
  constexpr std::int64_t kMax = std::int64_t{1} << 24;
  const auto size = [&](std::int64_t v, std::string_view what) {
    require(c, v > 0 && v <= kMax, what);
  };
  size(c.n_layers, "the number of layers is not positive");
  require(c, c.n_layers <= 4096, "more than 4096 layers");
  size(c.d_model, "hidden_size is not positive");
  size(c.vocab_size, "vocab_size is not positive");
  size(c.n_heads, "num_attention_heads is not positive");
  size(c.max_context, "max_position_embeddings is not positive");
  require(c, c.norm_eps > 0.0 && c.norm_eps < 1.0, "rms_norm_eps is not between 0 and 1");
  require(c, c.rope.theta > 1.0, "rope_theta is not above 1");
  require(c, c.rope.factor > 0.0, "the rope scaling factor is not positive");
}

void validate_gqa(const io::ModelConfig& c) {
  require(c, c.n_kv_heads > 0 && c.n_heads % c.n_kv_heads == 0,
          "num_attention_heads is not a multiple of num_key_value_heads");
  require(c, c.head_dim > 0 && c.head_dim <= 1024 && c.head_dim % 2 == 0,
          "head_dim is not an even number up to 1024");
  require(c, c.sliding_window >= 0, "sliding_window is negative");
}

void validate_mla(const io::ModelConfig& c) {
  const io::MlaConfig& m = c.mla;
  require(c, m.kv_lora_rank > 0 && m.kv_lora_rank <= 8192,
          "kv_lora_rank is not between 1 and 8192");
  require(c, m.q_lora_rank >= 0 && m.q_lora_rank <= 65536, "q_lora_rank is out of range");
  require(c, m.qk_nope_dim > 0 && m.qk_nope_dim <= 1024,
          "qk_nope_head_dim is not between 1 and 1024");
  require(c, m.qk_rope_dim > 0 && m.qk_rope_dim % 2 == 0 && m.qk_rope_dim <= 1024,
          "qk_rope_head_dim is not an even number up to 1024");
  require(c, m.v_head_dim > 0 && m.v_head_dim <= 1024, "v_head_dim is not between 1 and 1024");
}

void validate_moe(const io::ModelConfig& c) {
  const io::MoeConfig& m = c.moe;
  require(c, m.n_experts > 0 && m.n_experts <= 4096,
          "the number of experts is not between 1 and 4096");
  require(c, m.n_active > 0 && m.n_active <= m.n_experts,
          "the experts per token are not between 1 and the number of experts");
  require(c, m.d_ff > 0 && m.d_ff % 32 == 0, "the expert width is not a positive multiple of 32");
  require(c, m.n_groups >= 1 && m.n_groups <= 64 && m.n_experts % m.n_groups == 0,
          "n_group does not divide the number of experts");
  require(c, m.n_groups_used >= 1 && m.n_groups_used <= m.n_groups,
          "topk_group is not between 1 and n_group");
  require(c, m.n_active <= m.n_experts / m.n_groups * m.n_groups_used,
          "the chosen groups hold fewer experts than a token needs");
  require(c, m.layer_step >= 1, "the step between sparse layers is not positive");
}

}  // namespace kt::models
