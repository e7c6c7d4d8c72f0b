// What a ModelConfig becomes in a GGUF header, as llama.cpp's converters write it; the inverse of
// gguf_config.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <vector>

#include "io/gguf_writer.h"
#include "io/model_config.h"

namespace kt::io {

/// general.* and architecture keys. `file_type` is general.file_type. Throws kUnsupported for an
/// architecture that has no GGUF name.
void export_config(const ModelConfig& config, std::uint32_t file_type, GgufWriter& writer);

/// Copies the metadata of another file, except its file type and shard numbers.
void copy_metadata(const GgufMetadata& metadata, std::uint32_t file_type, GgufWriter& writer);

/// Values of the tensor rope_freqs.weight (divisors of the rotary frequencies), which carries Llama
/// 3's scaling; empty for models without.
std::vector<float> export_rope_factors(const ModelConfig& config);

}  // namespace kt::io
