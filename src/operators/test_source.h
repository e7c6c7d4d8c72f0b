// A WeightSource of float tensors held in memory, for tests of operators.
// Thread rule: filled before use.
#pragma once
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "io/weight_source.h"

namespace kt::operators {

class TestSource : public io::WeightSource {
 public:
  explicit TestSource(io::ModelConfig config) : config_(std::move(config)) {}

  /// Adds a tensor of Gaussian values; returns them.
  const std::vector<float>& add(const std::string& name, const tensor::Shape& shape, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(static_cast<std::size_t>(shape.count()));
    for (float& v : values) v = normal(random_);
    put(name, shape, std::move(values));
    return data_[name];
  }

  /// Adds a tensor of these values.
  void put(const std::string& name, const tensor::Shape& shape, std::vector<float> values) {
    tensors_.push_back({name, name, tensor::Format::kF32, shape});
    data_[name] = std::move(values);
  }

  const std::string& path() const override { return path_; }
  const io::ModelConfig& config() const override { return config_; }
  const std::vector<io::TensorInfo>& tensors() const override { return tensors_; }
  const io::TensorInfo* find(const std::string& name) const override {
    for (const io::TensorInfo& t : tensors_) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
  void read_rows(const io::TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override {
    const std::int64_t n = info.shape.n_cols();
    std::memcpy(out, data_.at(info.name).data() + row * n,
                static_cast<std::size_t>(n_rows * n) * sizeof(float));
  }
  std::optional<tensor::WeightView> map(const io::TensorInfo&) const override {
    return std::nullopt;
  }
  void drop(const io::TensorInfo&) const override {}

 private:
  std::string path_ = "memory";
  io::ModelConfig config_;
  std::mt19937 random_{11};
  std::vector<io::TensorInfo> tensors_;
  std::map<std::string, std::vector<float>> data_;
};

}  // namespace kt::operators
