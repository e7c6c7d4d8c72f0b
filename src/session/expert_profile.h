// How often routers choose each expert, from one run for the next: which experts GPUs begin with.
// Two forms are read: what kt saves, and importance matrices in GGUF, which count experts too
// ("blk.3.ffn_down_exps.weight.counts").
//
//   {"format": "kt-expert-uses", "uses": {"model.layers.3.mlp.experts": [12, 0, 7, …], …}}
//
// Thread rule: one thread.
#pragma once
#include <string>

#include "io/model_config.h"
#include "operators/hot_experts.h"
#include "operators/kinds.h"

namespace kt::session {

/// Throws kNotFound, kIo, kBadFile, and kMismatch for another number of experts.
operators::ExpertProfile read_expert_profile(const std::string& path,
                                             const io::ModelConfig& config);

/// The first form, of what the model's experts counted so far. Throws kUnsupported where none are
/// counted.
std::string expert_uses(operators::Module& model);

}  // namespace kt::session
