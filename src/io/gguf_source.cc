#include "io/gguf_source.h"

#include <cstring>

#include "io/gguf_config.h"
#include "io/quote.h"

namespace kt::io {
namespace {

std::size_t total_bytes(const TensorInfo& info) {
  return formats::row_bytes(info.format, info.shape.n_cols()) *
         static_cast<std::size_t>(info.shape.n_rows());
}

/// kRopePairs tensors are permuted in units of rows, or of values when they are vectors (biases).
std::size_t unit_bytes(const TensorInfo& info) {
  return formats::row_bytes(info.format, info.shape.rank() == 1 ? 1 : info.shape.n_cols());
}

}  // namespace

std::vector<TensorInfo> canonical_tensors(const ModelConfig& config, std::string_view stored_name,
                                          tensor::Format format, const tensor::Shape& shape,
                                          const std::string& path) {
  if (stored_name == "rope_freqs.weight") return {};
  const std::string stored(stored_name);
  const auto name = canonical_name(config, stored_name);
  if (!name) {
    // Prediction layers have tensors of their own, which the table does not list.
    const auto as_layer = stored.starts_with("blk.") ? "model.layers." + stored.substr(4) : stored;
    if (is_ignored_name(config, as_layer)) return {};
    return {{stored, stored, format, shape}};
  }
  if (is_ignored_name(config, name->before)) return {};
  if (name->layout == NameLayout::kRowVector && shape.rank() == 1) {
    return {{name->before, stored, format, tensor::Shape{1, shape.n_cols()}}};
  }
  const bool pair = name->layout == NameLayout::kStackedPair;
  if (name->layout != NameLayout::kStacked && !pair) return {{name->before, stored, format, shape}};
  if (shape.rank() != 3 || shape[0] != config.moe.n_experts || (pair && shape[1] % 2 != 0)) {
    fail(ErrorCode::kBadFile, path,
         "tensor {} has shape {}, [{}, n_out, n_in] is wanted; the file and its "
         "metadata do not belong together",
         quote(stored_name), shape.to_string(), config.moe.n_experts);
  }
  std::vector<TensorInfo> out;
  for (std::int64_t e = 0; e < shape[0]; ++e) {
    const tensor::Shape one{pair ? shape[1] / 2 : shape[1], shape[2]};
    out.push_back({name->of_expert(e), stored, format, one});
    if (pair) out.push_back({name->before + std::to_string(e) + name->second, stored, format, one});
  }
  return out;
}

GgufSource::GgufSource(const std::string& path)
    : path_(path),
      model_(std::make_shared<GgufModel>(GgufModel::open(path))),
      config_(config_from_gguf(*model_)) {
  for (const GgufModel::Entry& entry : model_->entries()) add_tensor(entry);
}

GgufSource::GgufSource(std::shared_ptr<const GgufModel> model, const ModelConfig& config,
                       std::string_view prefix)
    : path_(model->path()), model_(std::move(model)), config_(config) {
  for (const GgufModel::Entry& entry : model_->entries()) {
    if (model_->tensor(entry).name.starts_with(prefix)) add_tensor(entry);
  }
}

void GgufSource::add_tensor(const GgufModel::Entry& entry) {
  const GgufTensor& stored = model_->tensor(entry);
  const bool split_kv_b =
      stored.name.ends_with(".attn_k_b.weight") || stored.name.ends_with(".attn_v_b.weight");
  if (split_kv_b) {
    // Some converters store both layouts; the joint one is the checkpoint's own.
    const std::string prefix(stored.name.substr(0, stored.name.size() - std::strlen("k_b.weight")));
    if (model_->find(prefix + "kv_b.weight") != nullptr) return;
  }
  auto infos = canonical_tensors(config_, stored.name, stored.format, stored.shape,
                                 model_->files()[entry.file].path());
  Place place{entry.file, stored.offset, 0};
  const auto name = canonical_name(config_, stored.name);
  if (name && name->layout == NameLayout::kRopePairs) {
    const std::int64_t n = stored.shape.rank() == 1 ? stored.shape.n_cols() : stored.shape.n_rows();
    const bool block_vector =
        stored.shape.rank() == 1 && formats::traits(stored.format).block_len != 1;
    if (n % config_.head_dim != 0 || block_vector) {
      fail(ErrorCode::kBadFile, model_->path(),
           "tensor {} has shape {}, rows in heads of {} are wanted", quote(stored.name),
           stored.shape.to_string(), config_.head_dim);
    }
    place.rope_head_dim = config_.head_dim;
  }
  for (TensorInfo& info : infos) {
    const std::size_t bytes = total_bytes(info);
    add(std::move(info), place);
    place.offset += bytes;
  }
}

void GgufSource::add(TensorInfo info, Place place) {
  tensors_.add(std::move(info), model_->path());
  places_.push_back(place);
}

const GgufSource::Place& GgufSource::place_of(const TensorInfo& info) const {
  return places_[tensors_.index_of(info, path_)];
}

void GgufSource::read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                           std::byte* out) const {
  KT_CHECK(row >= 0 && n_rows >= 0 && row <= info.shape.n_rows() &&
           n_rows <= info.shape.n_rows() - row);
  const Place& place = place_of(info);
  const std::byte* data = model_->files()[place.file].file().bytes().data() + place.offset;
  const std::size_t row_bytes = formats::row_bytes(info.format, info.shape.n_cols());
  if (place.rope_head_dim == 0) {
    std::memcpy(out, data + static_cast<std::size_t>(row) * row_bytes,
                static_cast<std::size_t>(n_rows) * row_bytes);
    return;
  }
  const std::size_t unit = unit_bytes(info);
  const std::int64_t units_per_row = static_cast<std::int64_t>(row_bytes / unit);
  for (std::int64_t i = row * units_per_row; i < (row + n_rows) * units_per_row; ++i) {
    const auto stored = static_cast<std::size_t>(paired_row(i, place.rope_head_dim));
    std::memcpy(out, data + stored * unit, unit);
    out += unit;
  }
}

std::optional<tensor::WeightView> GgufSource::map(const TensorInfo& info) const {
  const Place& place = place_of(info);
  if (place.rope_head_dim != 0) return std::nullopt;
  return tensor::WeightView{info.format, info.shape,
                            model_->files()[place.file].file().bytes().data() + place.offset};
}

void GgufSource::drop(const TensorInfo& info) const {
  const Place& place = place_of(info);
  model_->files()[place.file].file().dont_need(static_cast<std::size_t>(place.offset),
                                               total_bytes(info));
}

}  // namespace kt::io
