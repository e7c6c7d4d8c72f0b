#include "io/safetensors_source.h"

#include <array>
#include <cstring>

#include "io/files.h"
#include "io/names.h"
#include "io/quote.h"

namespace kt::io {
namespace {

using formats::Format;

std::string_view without_suffix(std::string_view text, std::string_view suffix) {
  return text.substr(0, text.size() - suffix.size());
}

std::optional<Format> plain_format(SafeType type) {
  switch (type) {
    case SafeType::kF32: return Format::kF32;
    case SafeType::kF16: return Format::kF16;
    case SafeType::kBF16: return Format::kBF16;
    default: return std::nullopt;
  }
}

// Tensors that belong to another one: suffix, and the suffixes of the tensor that owns it.
struct Companion {
  std::string_view suffix;
  std::array<std::string_view, 2> owners;
};
constexpr Companion kCompanions[] = {
    {".scale", {".weight", ""}},
    {".weight_scale_inv", {".weight", ""}},
    {".weight_scale", {".weight_packed", ".weight"}},
    {".weight_zero_point", {".weight_packed", ""}},
    {".weight_shape", {".weight_packed", ""}},
    {".weight_g_idx", {".weight_packed", ""}},
    {".input_scale", {".weight", ""}},
    {".qzeros", {".qweight", ""}},
    {".scales", {".qweight", ""}},
    {".g_idx", {".qweight", ""}},
};

/// Before anything is computed from the number of bits.
void check_bits(const QuantConfig& quant, const std::string& name, const std::string& path) {
  if (quant.bits == 4 || quant.bits == 8) return;
  fail(ErrorCode::kUnsupported, path, "weight {} has {}-bit codes; 4 and 8 are supported",
       quote(name), quant.bits);
}

std::int64_t group_size(const QuantConfig& quant, const IntWeight& weight) {
  if (quant.group_size < 0) return std::max<std::int64_t>(weight.k, 1);
  if (quant.group_size > 0) return quant.group_size;
  const std::int64_t n_groups = weight.n < 1 ? 0 : weight.scales.count() / weight.n;
  return n_groups < 1 ? 0 : (weight.k + n_groups - 1) / n_groups;
}

}  // namespace

SafetensorsSource::SafetensorsSource(const std::string& path)
    : path_(path),
      folder_(folder_of(path)),
      config_(load_hf_config(folder_)),
      model_(std::make_shared<SafetensorsModel>(SafetensorsModel::open(path))) {
  for (const SafetensorsModel::Ref& ref : model_->refs()) add_tensor(ref);
}

SafetensorsSource::SafetensorsSource(std::shared_ptr<const SafetensorsModel> model,
                                     const HfConfig& config, const std::string& path,
                                     std::string_view prefix)
    : path_(path), folder_(folder_of(path)), config_(config), model_(std::move(model)) {
  const std::string below = std::string(prefix) + ".";
  for (const SafetensorsModel::Ref& ref : model_->refs()) {
    if (model_->tensor(ref).name.starts_with(below)) add_tensor(ref);
  }
}

bool SafetensorsSource::is_companion(const std::string& name) const {
  for (const Companion& companion : kCompanions) {
    if (!name.ends_with(companion.suffix)) continue;
    const std::string base(without_suffix(name, companion.suffix));
    for (const std::string_view owner : companion.owners) {
      if (!owner.empty() && model_->find(base + std::string(owner)) != nullptr) return true;
    }
  }
  return false;
}

/// Name as in the published checkpoint: Transformers 5 calls Mixtral's block "mlp".
std::string SafetensorsSource::canonical(std::string_view name) const {
  std::string out(name);
  if (config_.model.architecture != "mixtral") return out;
  auto replace = [&](std::string_view from, std::string_view to) {
    const std::size_t at = out.find(from);
    if (at != std::string::npos) out.replace(at, from.size(), to);
  };
  replace(".mlp.", ".block_sparse_moe.");
  replace(".gate_proj.", ".w1.");
  replace(".up_proj.", ".w3.");
  replace(".down_proj.", ".w2.");
  return out;
}

void SafetensorsSource::add_tensor(const SafetensorsModel::Ref& ref) {
  const SafeTensor& stored = model_->tensor(ref);
  const std::string& name = stored.name;
  if (is_ignored_name(config_.model, name) || is_companion(name)) return;
  if (name.ends_with(".mlp.experts.gate_up_proj")) {
    return add_fused(ref, std::string(without_suffix(name, "gate_up_proj")), true);
  }
  if (name.ends_with(".mlp.experts.down_proj")) {
    return add_fused(ref, std::string(without_suffix(name, "down_proj")), false);
  }
  if (name.ends_with(".qweight"))
    return add_grouped(ref, std::string(without_suffix(name, ".qweight")));
  if (name.ends_with(".weight_packed")) {
    return add_packed_rows(ref, std::string(without_suffix(name, ".weight_packed")));
  }
  if (name.ends_with(".weight") && stored.type == SafeType::kF8_E4M3) {
    return add_fp8(ref, std::string(without_suffix(name, ".weight")));
  }
  if (config_.quant.method == QuantMethod::kMxfp4 && name.ends_with(".weight") &&
      (stored.type == SafeType::kI8 || stored.type == SafeType::kU8)) {
    return add_mxfp4(ref, std::string(without_suffix(name, ".weight")));
  }
  add_plain(ref);
}

void SafetensorsSource::add(TensorInfo info, Place place) {
  tensors_.add(std::move(info), path_);
  places_.push_back(std::move(place));
}

void SafetensorsSource::add_plain(const SafetensorsModel::Ref& ref) {
  const SafeTensor& stored = model_->tensor(ref);
  const auto format = plain_format(stored.type);
  if (!format) {
    fail(ErrorCode::kUnsupported, file_of(ref),
         "tensor {} has element type {}, which no weight of {} has without "
         "a quantization_config that explains it",
         quote(stored.name), safe_type_name(stored.type), config_.model.architecture);
  }
  add({canonical(stored.name), stored.name, *format, stored.shape}, {Plain{model_->data(ref)}});
}

void SafetensorsSource::add_fused(const SafetensorsModel::Ref& ref, const std::string& prefix,
                                  bool gate_up) {
  const SafeTensor& stored = model_->tensor(ref);
  const auto format = plain_format(stored.type);
  const MoeConfig& moe = config_.model.moe;
  const std::int64_t d_model = config_.model.d_model;
  const tensor::Shape wanted = gate_up ? tensor::Shape{moe.n_experts, 2 * moe.d_ff, d_model}
                                       : tensor::Shape{moe.n_experts, d_model, moe.d_ff};
  if (!format || stored.shape != wanted) {
    fail(ErrorCode::kMismatch, file_of(ref),
         "tensor {} is {} {}, a float type and {} are wanted by config.json", quote(stored.name),
         safe_type_name(stored.type), stored.shape.to_string(), wanted.to_string());
  }
  const auto bytes = model_->data(ref);
  const std::size_t part =
      static_cast<std::size_t>(moe.d_ff * d_model) * safe_type_bytes(stored.type);
  std::size_t at = 0;
  for (std::int64_t e = 0; e < moe.n_experts; ++e) {
    const std::string expert = prefix + std::to_string(e);
    auto add_part = [&](const char* suffix, const tensor::Shape& shape) {
      add({canonical(expert + suffix), stored.name, *format, shape},
          {Plain{bytes.subspan(at, part)}});
      at += part;
    };
    if (gate_up) {
      add_part(".gate_proj.weight", {moe.d_ff, d_model});
      add_part(".up_proj.weight", {moe.d_ff, d_model});
    } else {
      add_part(".down_proj.weight", {d_model, moe.d_ff});
    }
  }
}

RawArray SafetensorsSource::raw(const std::string& name) const {
  const SafetensorsModel::Ref* ref = model_->find(name);
  if (ref == nullptr) return {};
  return {model_->tensor(*ref).type, model_->data(*ref)};
}

void SafetensorsSource::add_fp8(const SafetensorsModel::Ref& ref, const std::string& base) {
  const SafeTensor& stored = model_->tensor(ref);
  if (stored.shape.rank() != 2 || stored.shape[0] < 1 || stored.shape[1] < 1) {
    fail(ErrorCode::kBadFile, file_of(ref),
         "tensor {} is F8_E4M3 of shape {}, two dimensions are wanted", quote(stored.name),
         stored.shape.to_string());
  }
  Fp8Weight weight;
  weight.n = stored.shape[0];
  weight.k = stored.shape[1];
  weight.codes = model_->data(ref);
  weight.scales = raw(base + ".weight_scale_inv");
  if (weight.scales.empty()) weight.scales = raw(base + ".weight_scale");
  if (weight.scales.empty()) {
    fail(ErrorCode::kMismatch, file_of(ref),
         "tensor {} is F8_E4M3 but {}.weight_scale_inv is missing; get the "
         "complete model",
         quote(stored.name), base);
  }
  // Without blocks there is one scale for the tensor or one per row.
  const bool one = weight.scales.count() == 1;
  const bool by_row = weight.scales.count() == weight.n;
  weight.block_n = one                         ? weight.n
                   : config_.quant.block_n > 0 ? config_.quant.block_n
                   : by_row                    ? 1
                                               : 0;
  weight.block_k = one || config_.quant.block_n == 0 ? weight.k : config_.quant.block_k;
  check_sizes(weight, stored.name, file_of(ref));
  add({canonical(stored.name), stored.name, row_format(weight), stored.shape}, {weight});
}

void SafetensorsSource::add_mxfp4(const SafetensorsModel::Ref& ref, const std::string& base) {
  const SafeTensor& stored = model_->tensor(ref);
  const RawArray scales = raw(base + ".scale");
  if (stored.shape.rank() != 2 || scales.empty()) {
    fail(ErrorCode::kMismatch, file_of(ref),
         "tensor {} of shape {} holds MXFP4 codes: [n, k/2] with {}.scale [n, k/32] is wanted",
         quote(stored.name), stored.shape.to_string(), base);
  }
  const Mxfp4Weight weight{stored.shape[0], 2 * stored.shape[1], model_->data(ref), scales.bytes};
  check_sizes(weight, stored.name, file_of(ref));
  add({canonical(stored.name), stored.name, Format::kMXFP4, {weight.n, weight.k}}, {weight});
}

void SafetensorsSource::add_int(IntWeight weight, const std::string& stored_name) {
  const TensorInfo info{
      canonical(weight.name), stored_name, row_format(weight), {weight.n, weight.k}};
  add(info, {std::move(weight)});
}

void SafetensorsSource::add_grouped(const SafetensorsModel::Ref& ref, const std::string& base) {
  const SafeTensor& stored = model_->tensor(ref);
  const QuantConfig& quant = config_.quant;
  const bool awq = quant.method == QuantMethod::kAwq;
  if ((!awq && quant.method != QuantMethod::kGptq) || stored.shape.rank() != 2) {
    fail(ErrorCode::kMismatch, file_of(ref),
         "tensor {} of shape {} is packed as gptq and awq do it, but config.json "
         "has no such quantization_config",
         quote(stored.name), stored.shape.to_string());
  }
  check_bits(quant, stored.name, file_of(ref));
  IntWeight weight;
  weight.name = base + ".weight";
  weight.packing = awq ? Int4Packing::kAwq : Int4Packing::kGptq;
  weight.bits = static_cast<int>(quant.bits);
  const std::int64_t per_word = 32 / quant.bits;
  std::int64_t packed = stored.shape[awq ? 1 : 0];
  if (__builtin_mul_overflow(packed, per_word, &packed)) packed = 0;
  weight.n = awq ? packed : stored.shape[1];
  weight.k = awq ? stored.shape[0] : packed;
  weight.codes = raw(stored.name);
  weight.scales = raw(base + ".scales");
  weight.group = group_size(quant, weight);
  weight.zeros = raw(base + ".qzeros");
  weight.zero_offset = !awq && quant.plus_one_zeros ? 1.0f : 0.0f;
  if (!awq) weight.group_of = raw(base + ".g_idx");
  weight.fixed_zero = static_cast<float>(1 << (weight.bits - 1));
  check_sizes(weight, file_of(ref));
  // Without act-order the group numbers are c / group; then they need not be read now.
  if (quant.act_order) weight.scattered = is_scattered(weight, file_of(ref));
  add_int(std::move(weight), stored.name);
}

void SafetensorsSource::add_packed_rows(const SafetensorsModel::Ref& ref, const std::string& base) {
  const SafeTensor& stored = model_->tensor(ref);
  const QuantConfig& quant = config_.quant;
  if (quant.method != QuantMethod::kCompressedTensors || stored.shape.rank() != 2) {
    fail(ErrorCode::kMismatch, file_of(ref),
         "tensor {} of shape {} is packed as compressed-tensors does it, but "
         "config.json has no such quantization_config",
         quote(stored.name), stored.shape.to_string());
  }
  check_bits(quant, stored.name, file_of(ref));
  IntWeight weight;
  weight.name = base + ".weight";
  weight.packing = Int4Packing::kRows;
  weight.bits = static_cast<int>(quant.bits);
  const std::int64_t per_word = 32 / quant.bits;
  const std::int64_t per_element = stored.type == SafeType::kU8 ? 8 / quant.bits : per_word;
  weight.n = stored.shape[0];
  if (__builtin_mul_overflow(stored.shape[1], per_element, &weight.k)) weight.k = 0;
  const RawArray shape = raw(base + ".weight_shape");
  if (!shape.empty()) {
    // The unpacked shape tells how many values of the last word count.
    std::int64_t k = 0;
    if (shape.count() == 2 && shape.type == SafeType::kI64) {
      std::memcpy(&k, shape.bytes.data() + sizeof(k), sizeof(k));
    } else if (shape.count() == 2 && shape.type == SafeType::kI32) {
      k = static_cast<std::int32_t>(shape.word(1));
    }
    if (k < 1 || k > weight.k || k <= weight.k - per_word) {
      fail(ErrorCode::kBadFile, file_of(ref),
           "{}.weight_shape says rows of {} values, {} elements of codes hold {}", base, k,
           stored.shape[1], weight.k);
    }
    weight.k = k;
  }
  weight.codes = raw(stored.name);
  weight.codes.type = SafeType::kI32;  // bytes are the same codes in the same order
  weight.scales = raw(base + ".weight_scale");
  weight.group = group_size(quant, weight);
  weight.zeros = raw(base + ".weight_zero_point");
  weight.group_of = raw(base + ".weight_g_idx");
  weight.fixed_zero = static_cast<float>(1 << (weight.bits - 1));
  check_sizes(weight, file_of(ref));
  weight.scattered = is_scattered(weight, file_of(ref));
  add_int(std::move(weight), stored.name);
}

const SafetensorsSource::Place& SafetensorsSource::place_of(const TensorInfo& info) const {
  return places_[tensors_.index_of(info, path_)];
}

void SafetensorsSource::read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                                  std::byte* out) const {
  KT_CHECK(row >= 0 && n_rows >= 0 && row <= info.shape.n_rows() &&
           n_rows <= info.shape.n_rows() - row);
  const Place& place = place_of(info);
  if (const auto* plain = std::get_if<Plain>(&place.data)) {
    const std::size_t row_bytes = formats::row_bytes(info.format, info.shape.n_cols());
    std::memcpy(out, plain->bytes.data() + static_cast<std::size_t>(row) * row_bytes,
                static_cast<std::size_t>(n_rows) * row_bytes);
  } else if (const auto* fp8 = std::get_if<Fp8Weight>(&place.data)) {
    io::read_rows(*fp8, row, n_rows, out);
  } else if (const auto* mxfp4 = std::get_if<Mxfp4Weight>(&place.data)) {
    io::read_rows(*mxfp4, row, n_rows, out);
  } else {
    const auto& weight = std::get<IntWeight>(place.data);
    if (!weight.scattered && row == 0 && is_scattered(weight, path_)) {
      fail(ErrorCode::kMismatch, path_,
           "weight {} has scattered groups although quantization_config.desc_act is "
           "false",
           quote(weight.name));
    }
    io::read_rows(weight, row, n_rows, out);
  }
}

std::optional<tensor::WeightView> SafetensorsSource::map(const TensorInfo& info) const {
  const auto* plain = std::get_if<Plain>(&place_of(info).data);
  const std::size_t size = formats::traits(info.format).block_bytes;
  if (plain == nullptr || reinterpret_cast<std::uintptr_t>(plain->bytes.data()) % size != 0)
    return std::nullopt;
  return tensor::WeightView{info.format, info.shape, plain->bytes.data()};
}

void SafetensorsSource::drop_bytes(std::span<const std::byte> bytes) const {
  for (const SafetensorsFile& file : model_->files()) {
    const auto all = file.file().bytes();
    if (bytes.empty() || bytes.data() < all.data() || bytes.data() >= all.data() + all.size())
      continue;
    file.file().dont_need(static_cast<std::size_t>(bytes.data() - all.data()), bytes.size());
  }
}

void SafetensorsSource::drop(const TensorInfo& info) const {
  const Place& place = place_of(info);
  if (const auto* plain = std::get_if<Plain>(&place.data)) return drop_bytes(plain->bytes);
  if (const auto* fp8 = std::get_if<Fp8Weight>(&place.data)) return drop_bytes(fp8->codes);
  if (const auto* mxfp4 = std::get_if<Mxfp4Weight>(&place.data)) return drop_bytes(mxfp4->codes);
  drop_bytes(std::get<IntWeight>(place.data).codes.bytes);
}

}  // namespace kt::io
