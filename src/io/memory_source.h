// Weights that lie in the caller's memory, by name; nothing is copied.
// Thread rule: filled before use; const methods may run from any thread.
#pragma once
#include <string>
#include <vector>

#include "io/tensor_table.h"

namespace kt::io {

class MemorySource : public WeightSource {
 public:
  /// `path` names the source in messages.
  MemorySource(std::string path, ModelConfig config)
      : path_(std::move(path)), config_(std::move(config)) {}
  /// `view` must outlive the source. Throws kBadFile when the name is taken.
  void add(const std::string& name, const tensor::WeightView& view);

  const std::string& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_.all(); }
  const TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }
  void read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override;
  std::optional<tensor::WeightView> map(const TensorInfo& info) const override;
  void drop(const TensorInfo&) const override {}

 private:
  std::string path_;
  ModelConfig config_;
  TensorTable tensors_;
  std::vector<tensor::WeightView> views_;  // of each tensor
};

}  // namespace kt::io
