// Weights of a Hugging Face folder by canonical name. Quantised linears that are spread over
// several tensors appear as one tensor "<linear>.weight" in a row format of
// formats/checkpoint_quants.h (packed_weights.h); experts that Transformers 5 fuses
// (experts.gate_up_proj, experts.down_proj) appear one by one. Thread rule: const methods may run
// from any thread.
#pragma once
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "io/hf_config.h"
#include "io/packed_weights.h"
#include "io/safetensors.h"
#include "io/tensor_table.h"

namespace kt::io {

class SafetensorsSource : public WeightSource {
 public:
  /// A folder or a .safetensors file, config.json in the same folder. Throws as
  /// SafetensorsModel::open and load_hf_config do; kMismatch when tensors do not fit the
  /// quantization_config.
  explicit SafetensorsSource(const std::string& path);
  /// The tensors of an opened model below "<prefix>.", stored as `config` says. Groups of no given
  /// size have as many columns as their scales ask for.
  SafetensorsSource(std::shared_ptr<const SafetensorsModel> model, const HfConfig& config,
                    const std::string& path, std::string_view prefix);

  const std::string& path() const override { return path_; }
  const ModelConfig& config() const override { return config_.model; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_.all(); }
  const TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }
  void read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override;
  std::optional<tensor::WeightView> map(const TensorInfo& info) const override;
  void drop(const TensorInfo& info) const override;

  /// Folder with tokenizer.json and the other files of the model.
  const std::string& folder() const { return folder_; }

 private:
  struct Plain {
    std::span<const std::byte> bytes;
  };
  struct Place {
    std::variant<Plain, Fp8Weight, IntWeight, Mxfp4Weight> data;
  };
  void add(TensorInfo info, Place place);
  const Place& place_of(const TensorInfo& info) const;
  void add_tensor(const SafetensorsModel::Ref& ref);
  void add_fused(const SafetensorsModel::Ref& ref, const std::string& prefix, bool gate_up);
  void add_fp8(const SafetensorsModel::Ref& ref, const std::string& base);
  void add_grouped(const SafetensorsModel::Ref& ref, const std::string& base);
  void add_packed_rows(const SafetensorsModel::Ref& ref, const std::string& base);
  void add_mxfp4(const SafetensorsModel::Ref& ref, const std::string& base);
  void add_int(IntWeight weight, const std::string& stored_name);
  void add_plain(const SafetensorsModel::Ref& ref);
  RawArray raw(const std::string& name) const;
  std::string canonical(std::string_view name) const;
  bool is_companion(const std::string& name) const;
  const std::string& file_of(const SafetensorsModel::Ref& ref) const {
    return model_->files()[ref.file].path();
  }
  void drop_bytes(std::span<const std::byte> bytes) const;

  std::string path_;
  std::string folder_;
  HfConfig config_;
  std::shared_ptr<const SafetensorsModel> model_;
  TensorTable tensors_;
  std::vector<Place> places_;  // of each tensor
};

}  // namespace kt::io
