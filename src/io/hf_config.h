// Hugging Face config.json (and generation_config.json) → ModelConfig and QuantConfig.
//
// model_type llama, mistral, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3
// and kimi_k2, in the spellings of Transformers 4 (rope_theta, rope_scaling) and 5
// (rope_parameters). Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "io/model_config.h"

namespace kt::io {

enum class QuantMethod { kNone, kFp8, kGptq, kAwq, kCompressedTensors, kMxfp4 };

/// How the linear weights of a checkpoint are stored (config.json "quantization_config").
struct QuantConfig {
  QuantMethod method = QuantMethod::kNone;
  std::int64_t bits = 0;
  std::int64_t group_size = 0;  // values along k that share a scale; -1: the whole row
  std::int64_t block_n = 0;     // fp8: rows and columns that share a scale; 0: no blocks
  std::int64_t block_k = 0;
  bool act_order = false;      // gptq: groups may be scattered over k
  bool plus_one_zeros = true;  // gptq: stored zero points are one less than meant ("v1" layout)
  bool symmetric = true;       // compressed-tensors: no zero points stored
};

struct HfConfig {
  ModelConfig model;
  QuantConfig quant;
};

/// Throws kBadFile naming the key for wrong types and ranges, kUnsupported for unknown model types,
/// mechanisms and quantisation methods. `generation` is the text of generation_config.json or
/// empty.
HfConfig parse_hf_config(std::string_view text, std::string_view generation,
                         const std::string& path);

/// Reads one config.json alone.
ModelConfig read_hf_config(const std::string& path);

/// Reads config.json in `folder`, and generation_config.json when there.
HfConfig load_hf_config(const std::string& folder);

}  // namespace kt::io
