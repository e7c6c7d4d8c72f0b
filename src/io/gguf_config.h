// GGUF metadata → ModelConfig.
//
// general.architecture llama (also Mistral, and Mixtral when it has experts), qwen2, qwen3,
// qwen2moe, qwen3moe and deepseek2 (DeepSeek-V2, V2-Lite, V3, R1, Kimi-K2, Moonlight) are read;
// both the metadata that describes MLA as multi-head attention and the newer one with separate
// *_mla lengths. Thread rule: pure.
#pragma once
#include "io/gguf.h"
#include "io/model_config.h"

namespace kt::io {

/// Throws kUnsupported for other architectures and mechanisms, kBadFile naming the key for values
/// that are missing, of the wrong type or impossible. Tensor infos tell what metadata leaves out
/// (biases, tied embeddings, vocabulary size); rope_freqs.weight becomes rope.freq_factors.
ModelConfig config_from_gguf(const GgufModel& model);

}  // namespace kt::io
