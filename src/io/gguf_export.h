// What a ModelConfig becomes in a GGUF header, as llama.cpp's converters write it; the inverse of
// gguf_config.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "io/model_config.h"

namespace kt::io {

/// general.* and architecture keys. `file_type` is general.file_type. Throws kUnsupported for an
/// architecture that has no GGUF name.
void export_config(const ModelConfig& config, std::uint32_t file_type, GgufWriter& writer);

/// How the header of a copy differs from its source's.
struct HeaderChanges {
  std::uint32_t file_type = 0;
  std::string name;         // general.name; empty: the source's
  bool joint_kv_b = false;  // MLA weights are written as attn_kv_b only
};

/// Copies the metadata of another file, except its shard numbers and what `changes` says.
void copy_metadata(const GgufMetadata& metadata, const HeaderChanges& changes, GgufWriter& writer);

/// Values of the tensor rope_freqs.weight (divisors of the rotary frequencies), which carries Llama
/// 3's scaling; empty for models without.
std::vector<float> export_rope_factors(const ModelConfig& config);

}  // namespace kt::io
