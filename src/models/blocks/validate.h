// Checks that model files share: what a configuration must say before a tree can be built from it.
// Thread rule: pure.
#pragma once
#include <string_view>

#include "base/error.h"
#include "io/model_config.h"

namespace kt::models {

/// Throws kMismatch naming the value when `condition` is false.
inline void require(const io::ModelConfig& config, bool condition, std::string_view what) {
  if (condition) return;
  fail(ErrorCode::kMismatch, {}, "the configuration of this '{}' model is inconsistent: {}",
       config.architecture, what);
}

/// Sizes every decoder needs.
void validate_decoder(const io::ModelConfig& config);
/// Heads of grouped-query attention.
void validate_gqa(const io::ModelConfig& config);
/// Ranks and head dimensions of latent attention.
void validate_mla(const io::ModelConfig& config);
/// Expert counts, widths and groups.
void validate_moe(const io::ModelConfig& config);

}  // namespace kt::models
