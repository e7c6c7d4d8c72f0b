// Makers of the operators that have modules below them. They take a Builder at their own path.
// Thread rule: as Module.
#pragma once
#include <array>
#include <memory>
#include <string>

#include "operators/builder.h"

namespace kt::operators {

std::unique_ptr<Mlp> make_gated_mlp(const Builder& builder, const MlpSpec& spec);

/// Router, routed experts, and shared experts that work beside them.
std::unique_ptr<Mlp> make_sparse_moe(const Builder& builder, const io::ModelConfig& config,
                                     const MoeNames& names);

/// Grouped-query attention (arXiv 2305.13245).
std::unique_ptr<Attention> make_gqa_attention(const Builder& builder, const io::ModelConfig& config,
                                              const GqaSpec& spec, Rotary& rotary);

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) on a cache of latents.
std::unique_ptr<Attention> make_mla_attention(const Builder& builder, const io::ModelConfig& config,
                                              Rotary& rotary);

}  // namespace kt::operators
