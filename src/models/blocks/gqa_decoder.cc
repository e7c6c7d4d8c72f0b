#include "models/blocks/gqa_decoder.h"

#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> make_gqa_decoder(const io::ModelConfig& c,
                                                   const operators::Placement& placement,
                                                   const GqaDecoderSpec& spec) {
  using operators::Builder;
  validate_decoder(c);
  validate_gqa(c);
  LayerParts parts;
  parts.rotary_dim = c.head_dim;
  parts.attention = [&](const Builder& b, std::int64_t layer, operators::Rotary& rotary) {
    const std::int64_t window = layer >= c.full_attention_layers ? c.sliding_window : 0;
    return b.gqa_attention("self_attn", {c, spec.qk_norm, window, rotary});
  };
  parts.mlp = [&](const Builder& b, std::int64_t layer) {
    if (c.sparse_layer(layer)) return b.moe(spec.moe_name, c, spec.moe_names);
    require(c, c.d_ff > 0, "intermediate_size is not positive");
    return b.mlp("mlp", {c.d_model, c.d_ff, c.mlp_bias});
  };
  return make_causal_lm(c, placement, parts);
}

}  // namespace kt::models
