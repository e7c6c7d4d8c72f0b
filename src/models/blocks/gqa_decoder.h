// Decoders with grouped-query attention, dense or sparse: what Llama, Mistral, Qwen and Mixtral
// share. Thread rule: pure.
#pragma once
#include <memory>
#include <string>

#include "models/blocks/causal_lm.h"

namespace kt::models {

struct GqaDecoderSpec {
  bool qk_norm = false;  // RMS norms on the q and k heads
  std::string moe_name = "mlp";
  operators::MoeNames moe_names;
};

/// Layers for which config.sparse_layer() holds get routed experts, the others a gated MLP; layers
/// from config.full_attention_layers on use config.sliding_window.
std::unique_ptr<operators::Model> make_gqa_decoder(const io::ModelConfig& config,
                                                   const operators::Placement& placement,
                                                   const GqaDecoderSpec& spec);

}  // namespace kt::models
