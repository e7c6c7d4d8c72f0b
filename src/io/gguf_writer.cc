#include "io/gguf_writer.h"

#include <cstring>

#include "io/quote.h"

namespace kt::io {
namespace {

std::uint64_t padding(std::uint64_t position) {
  return (GgufWriter::kAlignment - position % GgufWriter::kAlignment) % GgufWriter::kAlignment;
}

template <class T>
void append_raw(std::string* out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

void append_string(std::string* out, std::string_view text) {
  append_raw<std::uint64_t>(out, text.size());
  out->append(text);
}

}  // namespace

GgufWriter::GgufWriter(const std::string& path) : file_(path) {}

template <class T>
void GgufWriter::put(T value) {
  append_raw(&items_, value);
}

void GgufWriter::put_string(std::string_view text) { append_string(&items_, text); }

void GgufWriter::begin_item(std::string_view key, GgufType type) {
  if (in_data_)
    fail(ErrorCode::kInternal, file_.path(), "metadata key \"{}\" added after the data began", key);
  if (!keys_.emplace(key).second) {
    fail(ErrorCode::kInternal, file_.path(), "metadata key \"{}\" written twice", key);
  }
  ++n_items_;
  put_string(key);
  put(static_cast<std::uint32_t>(type));
}

void GgufWriter::begin_array(std::string_view key, GgufType element, std::uint64_t n) {
  begin_item(key, GgufType::kArray);
  put(static_cast<std::uint32_t>(element));
  put(n);
}

void GgufWriter::add_u32(std::string_view key, std::uint32_t value) {
  begin_item(key, GgufType::kU32);
  put(value);
}

void GgufWriter::add_i32(std::string_view key, std::int32_t value) {
  begin_item(key, GgufType::kI32);
  put(value);
}

void GgufWriter::add_u64(std::string_view key, std::uint64_t value) {
  begin_item(key, GgufType::kU64);
  put(value);
}

void GgufWriter::add_f32(std::string_view key, float value) {
  begin_item(key, GgufType::kF32);
  put(value);
}

void GgufWriter::add_bool(std::string_view key, bool value) {
  begin_item(key, GgufType::kBool);
  put(static_cast<std::uint8_t>(value));
}

void GgufWriter::add_string(std::string_view key, std::string_view value) {
  begin_item(key, GgufType::kString);
  put_string(value);
}

void GgufWriter::add_strings(std::string_view key, std::span<const std::string> values) {
  begin_array(key, GgufType::kString, values.size());
  for (const std::string& value : values) put_string(value);
}

void GgufWriter::add_f32s(std::string_view key, std::span<const float> values) {
  begin_array(key, GgufType::kF32, values.size());
  for (const float value : values) put(value);
}

void GgufWriter::add_i32s(std::string_view key, std::span<const std::int32_t> values) {
  begin_array(key, GgufType::kI32, values.size());
  for (const std::int32_t value : values) put(value);
}

void GgufWriter::add_u32s(std::string_view key, std::span<const std::uint32_t> values) {
  begin_array(key, GgufType::kU32, values.size());
  for (const std::uint32_t value : values) put(value);
}

void GgufWriter::add_value(std::string_view key, const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    begin_array(key, array->element, array->n);
    items_.append(reinterpret_cast<const char*>(array->bytes.data()), array->bytes.size());
    return;
  }
  begin_item(key, value.type);
  if (const auto* text = std::get_if<std::string_view>(&value.value)) return put_string(*text);
  const auto* u = std::get_if<std::uint64_t>(&value.value);
  const auto* i = std::get_if<std::int64_t>(&value.value);
  const std::uint64_t bits = u != nullptr ? *u : i != nullptr ? static_cast<std::uint64_t>(*i) : 0;
  switch (value.type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool: return put(static_cast<std::uint8_t>(bits));
    case GgufType::kU16:
    case GgufType::kI16: return put(static_cast<std::uint16_t>(bits));
    case GgufType::kU32:
    case GgufType::kI32: return put(static_cast<std::uint32_t>(bits));
    case GgufType::kU64:
    case GgufType::kI64: return put(bits);
    case GgufType::kF32: return put(static_cast<float>(std::get<double>(value.value)));
    default: return put(std::get<double>(value.value));
  }
}

void GgufWriter::add_tensor(std::string_view name, tensor::Format format,
                            const tensor::Shape& shape) {
  const formats::FormatTraits& traits = formats::traits(format);
  if (in_data_ || !tensor_names_.emplace(name).second) {
    fail(ErrorCode::kInternal, file_.path(), "tensor \"{}\" declared twice or after the data began",
         name);
  }
  if (traits.ggml_type < 0) {
    fail(ErrorCode::kUnsupported, file_.path(),
         "tensor \"{}\" is {}, which GGUF has no type for; convert it "
         "to another type",
         name, traits.name);
  }
  if (shape.rank() < 1 || shape.count() < 1 || shape.n_cols() % traits.block_len != 0) {
    fail(ErrorCode::kUnsupported, file_.path(),
         "tensor \"{}\" of shape {} cannot be {}, whose rows are "
         "multiples of {}",
         name, shape.to_string(), traits.name, traits.block_len);
  }
  Declared declared{std::string(name), format, shape, data_bytes_, 0};
  declared.bytes =
      formats::row_bytes(format, shape.n_cols()) * static_cast<std::uint64_t>(shape.n_rows());
  data_bytes_ += declared.bytes + padding(declared.bytes);
  tensors_.push_back(std::move(declared));
}

void GgufWriter::begin_data() {
  KT_CHECK(!in_data_);
  in_data_ = true;
  std::string header = "GGUF";
  append_raw<std::uint32_t>(&header, 3);
  append_raw<std::uint64_t>(&header, tensors_.size());
  append_raw<std::uint64_t>(&header, n_items_);
  file_.write(header);
  file_.write(items_);
  items_ = {};
  std::string infos;
  for (const Declared& t : tensors_) {
    append_string(&infos, t.name);
    append_raw<std::uint32_t>(&infos, static_cast<std::uint32_t>(t.shape.rank()));
    for (int d = t.shape.rank(); d-- > 0;) {
      append_raw<std::uint64_t>(&infos, static_cast<std::uint64_t>(t.shape[d]));
    }
    append_raw<std::uint32_t>(&infos,
                              static_cast<std::uint32_t>(formats::traits(t.format).ggml_type));
    append_raw<std::uint64_t>(&infos, t.offset);
  }
  file_.write(infos);
  file_.write_zeros(padding(file_.position()));
}

void GgufWriter::append(std::span<const std::byte> bytes) {
  KT_CHECK(in_data_ && current_ < tensors_.size());
  KT_CHECK(bytes.size() <= tensors_[current_].bytes - appended_);
  file_.write(bytes);
  appended_ += bytes.size();
  if (appended_ == tensors_[current_].bytes) {
    file_.write_zeros(padding(appended_));
    ++current_;
    appended_ = 0;
  }
}

void GgufWriter::finish() {
  if (!in_data_) begin_data();
  KT_CHECK(current_ == tensors_.size());
  file_.finish();
}

}  // namespace kt::io
