// Weights of a GGUF model by canonical name: stacked experts become one tensor each (a view into
// the stack), llama's permuted q and k rows are put back in order when they are read. Thread rule:
// const methods may run from any thread.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/names.h"
#include "io/tensor_table.h"

namespace kt::io {

class GgufSource : public WeightSource {
 public:
  /// Throws as GgufModel::open and config_from_gguf do.
  explicit GgufSource(const std::string& path);
  /// The tensors of an opened model whose names begin with `prefix`, for a model of `config`.
  GgufSource(std::shared_ptr<const GgufModel> model, const ModelConfig& config,
             std::string_view prefix);

  const std::string& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_.all(); }
  const TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }
  void read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override;
  std::optional<tensor::WeightView> map(const TensorInfo& info) const override;
  void drop(const TensorInfo& info) const override;

  /// The files behind it, for tokenizer and other metadata.
  const GgufModel& gguf() const { return *model_; }

 private:
  struct Place {
    std::size_t file = 0;
    std::uint64_t offset = 0;
    std::int64_t rope_head_dim = 0;  // > 0: rows of heads of this length are permuted
  };
  void add(TensorInfo info, Place place);
  void add_tensor(const GgufModel::Entry& entry);
  const Place& place_of(const TensorInfo& info) const;

  std::string path_;
  std::shared_ptr<const GgufModel> model_;
  ModelConfig config_;
  TensorTable tensors_;
  std::vector<Place> places_;  // of each tensor
};

/// The canonical tensors that one stored GGUF tensor stands for: itself under its Hugging Face
/// name, or one per expert of a stack. Empty for tensors that are not weights of the model
/// (rope_freqs, prediction layers). Unknown names keep their stored name. Throws kBadFile when a
/// stack's shape is not [n_experts, …].
std::vector<TensorInfo> canonical_tensors(const ModelConfig& config, std::string_view stored_name,
                                          tensor::Format format, const tensor::Shape& shape,
                                          const std::string& path);

}  // namespace kt::io
