#include <cmath>
#include <cstring>

#include "io/gguf.h"
#include "io/quote.h"

namespace kt::io {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <class T, class Out>
void widen(const GgufArray& array, std::vector<Out>* out) {
  for (std::uint64_t i = 0; i < array.n; ++i) {
    out->push_back(static_cast<Out>(load<T>(array.bytes.data() + i * sizeof(T))));
  }
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  switch (type) {
    case GgufType::kU8: return "u8";
    case GgufType::kI8: return "i8";
    case GgufType::kU16: return "u16";
    case GgufType::kI16: return "i16";
    case GgufType::kU32: return "u32";
    case GgufType::kI32: return "i32";
    case GgufType::kF32: return "f32";
    case GgufType::kBool: return "bool";
    case GgufType::kString: return "string";
    case GgufType::kArray: return "array";
    case GgufType::kU64: return "u64";
    case GgufType::kI64: return "i64";
    case GgufType::kF64: return "f64";
  }
  return "unknown";
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &items_[found->second].value;
}

bool GgufMetadata::add(std::string_view key, GgufValue value) {
  if (!index_.emplace(key, items_.size()).second) return false;
  items_.push_back({key, value});
  return true;
}

const GgufValue& GgufMetadata::require(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    fail(ErrorCode::kBadFile, path_,
         "metadata key \"{}\" is missing; the file was made by an old or foreign "
         "converter, convert the model again",
         key);
  }
  return *value;
}

void GgufMetadata::wrong_type(std::string_view key, const GgufValue& value,
                              const char* wanted) const {
  fail(ErrorCode::kBadFile, path_, "metadata key \"{}\" is of type {}, {} is wanted", key,
       gguf_type_name(value.type), wanted);
}

std::uint64_t GgufMetadata::get_u64(std::string_view key) const {
  const GgufValue& value = require(key);
  if (value.type == GgufType::kBool) wrong_type(key, value, "an integer");
  if (const auto* u = std::get_if<std::uint64_t>(&value.value)) return *u;
  if (const auto* i = std::get_if<std::int64_t>(&value.value)) {
    if (*i >= 0) return static_cast<std::uint64_t>(*i);
    fail(ErrorCode::kBadFile, path_, "metadata key \"{}\" is {}, a non-negative integer is wanted",
         key, *i);
  }
  wrong_type(key, value, "an integer");
}

std::uint64_t GgufMetadata::get_u64(std::string_view key, std::uint64_t otherwise) const {
  return has(key) ? get_u64(key) : otherwise;
}

std::int64_t GgufMetadata::get_i64(std::string_view key) const {
  const GgufValue& value = require(key);
  if (value.type == GgufType::kBool) wrong_type(key, value, "an integer");
  if (const auto* i = std::get_if<std::int64_t>(&value.value)) return *i;
  if (const auto* u = std::get_if<std::uint64_t>(&value.value)) {
    if (*u <= static_cast<std::uint64_t>(INT64_MAX)) return static_cast<std::int64_t>(*u);
    fail(ErrorCode::kBadFile, path_, "metadata key \"{}\" is {}, too large for an integer", key,
         *u);
  }
  wrong_type(key, value, "an integer");
}

std::int64_t GgufMetadata::get_i64(std::string_view key, std::int64_t otherwise) const {
  return has(key) ? get_i64(key) : otherwise;
}

double GgufMetadata::get_f64(std::string_view key) const {
  const GgufValue& value = require(key);
  double number = 0.0;
  if (const auto* f = std::get_if<double>(&value.value)) {
    number = *f;
  } else if (const auto* i = std::get_if<std::int64_t>(&value.value)) {
    number = static_cast<double>(*i);
  } else if (const auto* u = std::get_if<std::uint64_t>(&value.value);
             u != nullptr && value.type != GgufType::kBool) {
    number = static_cast<double>(*u);
  } else {
    wrong_type(key, value, "a number");
  }
  if (!std::isfinite(number)) {
    fail(ErrorCode::kBadFile, path_, "metadata key \"{}\" is {}, a finite number is wanted", key,
         number);
  }
  return number;
}

double GgufMetadata::get_f64(std::string_view key, double otherwise) const {
  return has(key) ? get_f64(key) : otherwise;
}

bool GgufMetadata::get_bool(std::string_view key, bool otherwise) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return otherwise;
  if (value->type != GgufType::kBool) wrong_type(key, *value, "a bool");
  return std::get<std::uint64_t>(value->value) != 0;
}

std::string_view GgufMetadata::get_string(std::string_view key) const {
  const GgufValue& value = require(key);
  if (const auto* text = std::get_if<std::string_view>(&value.value)) return *text;
  wrong_type(key, value, "a string");
}

std::string_view GgufMetadata::get_string(std::string_view key, std::string_view otherwise) const {
  return has(key) ? get_string(key) : otherwise;
}

std::uint64_t GgufMetadata::array_size(std::string_view key) const {
  return has(key) ? require_array(key).n : 0;
}

const GgufArray& GgufMetadata::require_array(std::string_view key) const {
  const GgufValue& value = require(key);
  if (const auto* array = std::get_if<GgufArray>(&value.value)) return *array;
  wrong_type(key, value, "an array");
}

std::vector<std::string_view> GgufMetadata::get_strings(std::string_view key) const {
  const GgufArray& array = require_array(key);
  if (array.element != GgufType::kString)
    wrong_type(key, {array.element, {}}, "an array of strings");
  std::vector<std::string_view> out;
  out.reserve(static_cast<std::size_t>(array.n));
  // The lengths were checked when the header was parsed.
  const std::byte* at = array.bytes.data();
  for (std::uint64_t i = 0; i < array.n; ++i) {
    const auto length = static_cast<std::size_t>(load<std::uint64_t>(at));
    out.emplace_back(reinterpret_cast<const char*>(at + 8), length);
    at += 8 + length;
  }
  return out;
}

std::vector<float> GgufMetadata::get_floats(std::string_view key) const {
  const GgufArray& array = require_array(key);
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(array.n));
  switch (array.element) {
    case GgufType::kF32: widen<float>(array, &out); break;
    case GgufType::kF64: widen<double>(array, &out); break;
    default: wrong_type(key, {array.element, {}}, "an array of floats");
  }
  return out;
}

std::vector<std::int64_t> GgufMetadata::get_integers(std::string_view key) const {
  const GgufArray& array = require_array(key);
  std::vector<std::int64_t> out;
  out.reserve(static_cast<std::size_t>(array.n));
  switch (array.element) {
    case GgufType::kU8: widen<std::uint8_t>(array, &out); break;
    case GgufType::kI8: widen<std::int8_t>(array, &out); break;
    case GgufType::kU16: widen<std::uint16_t>(array, &out); break;
    case GgufType::kI16: widen<std::int16_t>(array, &out); break;
    case GgufType::kU32: widen<std::uint32_t>(array, &out); break;
    case GgufType::kI32: widen<std::int32_t>(array, &out); break;
    case GgufType::kBool: widen<std::uint8_t>(array, &out); break;
    case GgufType::kI64: widen<std::int64_t>(array, &out); break;
    case GgufType::kU64: widen<std::uint64_t>(array, &out); break;
    default: wrong_type(key, {array.element, {}}, "an array of integers");
  }
  return out;
}

}  // namespace kt::io
