// A WeightSource that has names and shapes but no data: for planning and for proving that a model's
// tree and a checkpoint's tensor list agree, at full size. Thread rule: const methods may run from
// any thread.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_source.h"

namespace kt::io {

/// read_rows throws kUnsupported; map returns nothing. Names must be canonical and unique
/// (kMismatch).
std::unique_ptr<WeightSource> make_listing_source(const ModelConfig& config,
                                                  std::vector<TensorInfo> tensors);

/// Parses a compact tensor list, one pattern per line: "name d0 d1 …", where each {a..b} in the
/// name stands for the numbers a to b; '#' starts a comment line. `path` is for messages. Throws
/// kBadFile.
std::vector<TensorInfo> parse_tensor_list(std::string_view text, const std::string& path);

/// Stored GGUF tensors → the canonical ones, as a GGUF source would list them.
std::vector<TensorInfo> canonical_list(const ModelConfig& config,
                                       const std::vector<TensorInfo>& stored,
                                       const std::string& path);

/// The list without the tensors that no source lists (is_ignored_name).
std::vector<TensorInfo> without_ignored(const ModelConfig& config,
                                        const std::vector<TensorInfo>& tensors);

}  // namespace kt::io
