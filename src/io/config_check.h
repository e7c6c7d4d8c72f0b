// Sanity of a ModelConfig, whichever file it came from: every size positive and small enough that
// products of sizes cannot overflow, counts that must divide each other do. Thread rule: pure.
#pragma once
#include <string>

#include "io/model_config.h"

namespace kt::io {

/// Throws kBadFile naming the field, its value and the accepted range. `path` is for the message.
void check_config(const ModelConfig& config, const std::string& path);

/// Throws kBadFile naming the value that is out of its range; a top_k below 0 becomes 0 (off).
void check_sampling(SamplingAdvice* advice, const std::string& path);

/// What the MoE router of published DeepSeek checkpoints does where a file leaves it out; for GGUF
/// files that were made before the expert_group keys existed.
void infer_deepseek_groups(ModelConfig* config);

}  // namespace kt::io
