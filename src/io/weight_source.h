// Weights by module path. A source is one model on disk (GGUF shards or a safetensors folder),
// opened from its headers only; every tensor has the name that the published Hugging Face
// checkpoint gives it, one per expert ("model.layers.3.mlp.experts.7.up_proj.weight"), whatever the
// file calls it. Layout differences (stacked experts, GGUF's permuted q/k rows, tensors split into
// packed values and scales as in GPTQ) are undone here: callers see rows of blocks of one Format.
// Thread rule: const methods may run from any thread.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/model_config.h"
#include "tensor/tensor.h"

namespace kt::io {

struct TensorInfo {
  std::string name;         // canonical (Hugging Face checkpoint) name
  std::string stored_name;  // as in the file, for messages
  tensor::Format format{};
  tensor::Shape shape;  // [n_out, n_in] for linears
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const std::string& path() const = 0;
  virtual const ModelConfig& config() const = 0;
  /// Every tensor, in file order.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual const TensorInfo* find(const std::string& name) const = 0;
  /// Copies rows [row, row + n_rows) of the matrix [n_rows_total, n_cols] to `out`, as blocks of
  /// the tensor's format. Throws kNotFound, kIo; rows out of range are a bug.
  virtual void read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                         std::byte* out) const = 0;
  /// The whole tensor in mapped memory, valid as long as the source lives, or nothing when its rows
  /// must be rearranged to be read.
  virtual std::optional<tensor::WeightView> map(const TensorInfo& info) const = 0;
  /// Tells the system that the tensor's mapped pages are not needed any more.
  virtual void drop(const TensorInfo& info) const = 0;
};

/// Opens a model: a .gguf file (any shard), a folder of .gguf shards, a folder with config.json and
/// safetensors (which win over .gguf files in the same folder), or one .safetensors file beside its
/// config.json. Throws kNotFound, kBadFile, kUnsupported, kMismatch.
std::unique_ptr<WeightSource> open_weights(const std::string& path);

}  // namespace kt::io
