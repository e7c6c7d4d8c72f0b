// The routed experts of a checkpoint, one layer at a time, for callers that know what they want:
// config.json is not read, so that any architecture will do whose experts are gated MLPs.
//
//   safetensors   <layers>.L.{mlp,block_sparse_moe,ffn}.experts.E.{gate,up,down}_proj or w1, w3, w2
//   GGUF          blk.L.ffn_{gate,up,down}_exps.weight
//     →  "experts.E.{gate,up,down}_proj.weight" of every expert that is asked for
//
// Thread rule: const methods may run from any thread.
#pragma once
#include <memory>
#include <span>
#include <string>

#include "io/gguf.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "io/weight_source.h"

namespace kt::io {

/// One layer's experts as the caller wants them.
struct ExpertSelection {
  std::int64_t layer = 0;
  MoeConfig moe;  // n_experts, n_active, d_ff, swiglu_limit
  std::int64_t d_model = 0;
  QuantConfig quant;  // of safetensors; group_size 0: as the scales say
  /// Expert i of the source is expert logical[i] of the checkpoint.
  std::span<const std::int64_t> logical;
};

/// The configuration of a model of which only the routed experts matter.
ModelConfig expert_config(const MoeConfig& moe, std::int64_t d_model);

class ExpertFiles {
 public:
  /// A folder of safetensors or of GGUF shards (safetensors win), or a file. Throws kNotFound and
  /// what the readers throw.
  explicit ExpertFiles(const std::string& path);
  bool is_gguf() const { return gguf_ != nullptr; }
  const std::string& path() const { return path_; }
  /// The source keeps the files open. Throws kNotFound naming what was looked for, kMismatch when
  /// the tensors are stored otherwise, kUnsupported for weights packed for one machine.
  std::unique_ptr<WeightSource> layer(const ExpertSelection& wanted) const;

 private:
  std::string path_;
  std::shared_ptr<const SafetensorsModel> safetensors_;
  std::shared_ptr<const GgufModel> gguf_;
};

}  // namespace kt::io
