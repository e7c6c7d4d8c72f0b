#include "io/expert_files.h"

#include <filesystem>

#include "io/files.h"
#include "io/gguf_source.h"
#include "io/quote.h"
#include "io/safetensors_source.h"

namespace kt::io {
namespace {

constexpr const char* kLayers[] = {"model.layers", "language_model.model.layers",
                                   "model.language_model.layers", "layers"};
constexpr const char* kBlocks[] = {"mlp.experts", "block_sparse_moe.experts", "ffn.experts"};
constexpr const char* kProjections[] = {"gate_proj", "up_proj", "down_proj"};
constexpr const char* kShortProjections[] = {"w1", "w3", "w2"};

/// Experts of another source in the caller's order, under this file's names.
class SelectedExperts : public WeightSource {
 public:
  SelectedExperts(std::unique_ptr<WeightSource> all, const std::string& prefix,
                  std::span<const std::int64_t> logical, const ModelConfig& config)
      : all_(std::move(all)), config_(config) {
    const bool is_short = all_->find(prefix + ".0.w1.weight") != nullptr;
    for (std::size_t e = 0; e < logical.size(); ++e) {
      for (std::size_t p = 0; p < 3; ++p) {
        const std::string name = prefix + "." + std::to_string(logical[e]) + "." +
                                 (is_short ? kShortProjections[p] : kProjections[p]) + ".weight";
        const TensorInfo* info = all_->find(name);
        if (info == nullptr) {
          fail(ErrorCode::kNotFound, all_->path(), "holds no weights {}; get the complete model",
               quote(name));
        }
        TensorInfo renamed = *info;
        renamed.name = "experts." + std::to_string(e) + "." + kProjections[p] + ".weight";
        tensors_.add(renamed, all_->path());
        stored_.push_back(info);
      }
    }
  }

  const std::string& path() const override { return all_->path(); }
  const ModelConfig& config() const override { return config_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_.all(); }
  const TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }
  void read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override {
    all_->read_rows(stored(info), row, n_rows, out);
  }
  std::optional<tensor::WeightView> map(const TensorInfo& info) const override {
    return all_->map(stored(info));
  }
  void drop(const TensorInfo& info) const override { all_->drop(stored(info)); }

 private:
  const TensorInfo& stored(const TensorInfo& info) const {
    return *stored_[tensors_.index_of(info, path())];
  }
  std::unique_ptr<WeightSource> all_;
  ModelConfig config_;
  TensorTable tensors_;
  std::vector<const TensorInfo*> stored_;  // of each tensor, in all_
};

bool begins_any(const SafetensorsModel& model, const std::string& prefix) {
  for (const SafetensorsModel::Ref& ref : model.refs()) {
    if (model.tensor(ref).name.starts_with(prefix)) return true;
  }
  return false;
}

// Where the experts of a layer are: "model.layers.3.mlp.experts".
std::string find_prefix(const SafetensorsModel& model, std::int64_t layer,
                        const std::string& path) {
  for (const char* layers : kLayers) {
    for (const char* block : kBlocks) {
      const std::string prefix = std::string(layers) + "." + std::to_string(layer) + "." + block;
      if (begins_any(model, prefix + ".")) return prefix;
    }
  }
  const std::string packed = "blk." + std::to_string(layer) + ".ffn_up_exps.0.numa.";
  if (begins_any(model, packed)) {
    fail(ErrorCode::kUnsupported, path,
         "holds weights that were packed for one CPU and number of NUMA nodes ({}…); name the "
         "checkpoint that they were made from: it is quantised while it loads",
         quote(packed));
  }
  fail(ErrorCode::kNotFound, path,
       "holds no routed experts of layer {}: tensors \"model.layers.{}.mlp.experts.…\" or their "
       "like are wanted",
       layer, layer);
}

}  // namespace

ModelConfig expert_config(const MoeConfig& moe, std::int64_t d_model) {
  ModelConfig config;
  config.architecture = "qwen3_moe";  // the plainest of those whose experts are named as here
  config.d_model = d_model;
  config.moe = moe;
  return config;
}

ExpertFiles::ExpertFiles(const std::string& path) : path_(path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    fail(ErrorCode::kNotFound, path, "no such file or folder; name a model folder");
  }
  bool gguf = path.ends_with(".gguf"), safetensors = path.ends_with(".safetensors");
  for (auto it = std::filesystem::directory_iterator(path, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().string();
    gguf = gguf || name.ends_with(".gguf");
    safetensors = safetensors || name.ends_with(".safetensors");
  }
  if (safetensors) {
    safetensors_ = std::make_shared<SafetensorsModel>(SafetensorsModel::open(path));
  } else if (gguf) {
    gguf_ = std::make_shared<GgufModel>(GgufModel::open(path));
  } else {
    fail(ErrorCode::kNotFound, path, "holds neither .safetensors nor .gguf files");
  }
}

std::unique_ptr<WeightSource> ExpertFiles::layer(const ExpertSelection& wanted) const {
  HfConfig config;
  config.model = expert_config(wanted.moe, wanted.d_model);
  config.quant = wanted.quant;
  std::unique_ptr<WeightSource> all;
  std::string prefix;
  if (is_gguf()) {
    const std::string layer = std::to_string(wanted.layer);
    prefix = "model.layers." + layer + ".mlp.experts";
    all = std::make_unique<GgufSource>(gguf_, config.model, "blk." + layer + ".ffn_");
  } else {
    prefix = find_prefix(*safetensors_, wanted.layer, path_);
    all = std::make_unique<SafetensorsSource>(safetensors_, config, path_, prefix);
  }
  return std::make_unique<SelectedExperts>(std::move(all), prefix, wanted.logical, config.model);
}

}  // namespace kt::io
