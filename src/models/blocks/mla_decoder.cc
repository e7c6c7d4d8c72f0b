#include "models/blocks/mla_decoder.h"

#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> make_mla_decoder(const io::ModelConfig& c,
                                                   const operators::Placement& placement) {
  using operators::Builder;
  validate_decoder(c);
  validate_mla(c);
  validate_moe(c);
  require(c, c.moe.n_dense_layers == 0 || c.d_ff > 0, "intermediate_size is not positive");
  LayerParts parts;
  parts.rotary_dim = c.mla.qk_rope_dim;
  parts.attention = [&](const Builder& b, std::int64_t, operators::Rotary& rotary) {
    return b.mla_attention("self_attn", {c, rotary});
  };
  parts.mlp = [&](const Builder& b, std::int64_t layer) {
    if (c.sparse_layer(layer)) return b.moe("mlp", c, {});
    return b.mlp("mlp", {c.d_model, c.d_ff, false});
  };
  return make_causal_lm(c, placement, parts);
}

}  // namespace kt::models
