// Random weights of MoE layers, for speed: each row is one of a few hundred Gaussian rows, encoded
// once, so that layers of many gigabytes are there in seconds. Values have variance 1 / n_cols.
//
//   tensors "<layer>.<expert>.{gate,up,down}_proj.weight" of layers layer_path(0), layer_path(1), …
//
// Thread rule: const methods may run from any thread.
#pragma once
#include <map>

#include "base/thread_pool.h"
#include "io/tensor_table.h"
#include "session/bench/cases.h"

namespace kt::session::bench {

/// n Gaussian values of unit variance, the same on every call with the same seed.
std::vector<float> gaussian(std::int64_t n, std::uint64_t seed);

class LayerSource : public io::WeightSource {
 public:
  LayerSource(ThreadPool& pool, const LayerShape& shape, const LayerFormat& format,
              std::int64_t n_layers);
  static std::string layer_path(std::int64_t layer);
  /// A row as operators compute with it: recoded as the format says, then decoded.
  std::vector<float> values(const io::TensorInfo& info, std::int64_t row) const;

  const std::string& path() const override { return path_; }
  const io::ModelConfig& config() const override { return config_; }
  const std::vector<io::TensorInfo>& tensors() const override { return tensors_.all(); }
  const io::TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }
  void read_rows(const io::TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override;
  std::optional<tensor::WeightView> map(const io::TensorInfo&) const override {
    return std::nullopt;
  }
  void drop(const io::TensorInfo&) const override {}

 private:
  std::string path_ = "random weights";
  io::ModelConfig config_;
  LayerFormat format_;
  io::TensorTable tensors_;
  std::map<std::int64_t, std::vector<std::byte>> rows_;  // by row length: encoded rows
};

}  // namespace kt::session::bench
