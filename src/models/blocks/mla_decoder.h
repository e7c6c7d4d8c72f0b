// Decoders with latent attention and routed + shared experts: the DeepSeek family.
// Thread rule: pure.
#pragma once
#include <memory>

#include "models/blocks/causal_lm.h"

namespace kt::models {

/// Layers for which config.sparse_layer() holds get experts, the others a gated MLP.
std::unique_ptr<operators::Model> make_mla_decoder(const io::ModelConfig& config,
                                                   const operators::Placement& placement);

}  // namespace kt::models
