#include "io/json_util.h"

#include <cmath>

#include "base/error.h"
#include "io/quote.h"

namespace kt::io {

using nlohmann::json;

json parse_json_object(std::string_view text, const std::string& path) {
  constexpr int kMaxDepth = 100;
  try {
    json value = json::parse(text.begin(), text.end(), [&](int depth, json::parse_event_t, json&) {
      if (depth > kMaxDepth) {
        fail(ErrorCode::kBadFile, path,
             "nests more than {} levels deep; it is not a usable JSON file", kMaxDepth);
      }
      return true;
    });
    if (!value.is_object()) {
      fail(ErrorCode::kBadFile, path, "holds a JSON {}, an object {{…}} is wanted",
           value.type_name());
    }
    return value;
  } catch (const json::exception& error) {
    fail(ErrorCode::kBadFile, path, "is not valid JSON: {}", quote(error.what()));
  }
}

const json* JsonFields::find(std::string_view key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::wrong(std::string_view key, const json& value, const std::string& wanted) const {
  std::string shown = value.is_structured()
                          ? value.type_name()
                          : value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 60) + "...";
  fail(ErrorCode::kBadFile, path_, "\"{}\" is {}, {} is wanted", name(key), shown, wanted);
}

std::optional<JsonFields> JsonFields::object(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) wrong(key, *value, "an object");
  return JsonFields(*value, path_, name(key) + ".");
}

std::int64_t JsonFields::to_integer(std::string_view key, const json& value, std::int64_t low,
                                    std::int64_t high) const {
  const std::string wanted = fmt::format("an integer from {} to {}", low, high);
  if (!value.is_number_integer()) wrong(key, value, wanted);
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    wrong(key, value, wanted);
  }
  const auto number = value.get<std::int64_t>();
  if (number < low || number > high) wrong(key, value, wanted);
  return number;
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const json* value = find(key);
  if (value == nullptr) {
    fail(ErrorCode::kBadFile, path_,
         "\"{}\" is missing, an integer is wanted; get the model's own config.json", name(key));
  }
  return to_integer(key, *value, low, high);
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t low, std::int64_t high,
                                 std::int64_t otherwise) const {
  return has(key) ? integer(key, low, high) : otherwise;
}

double JsonFields::number(std::string_view key, double otherwise) const {
  const json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_number() || !std::isfinite(value->get<double>()))
    wrong(key, *value, "a finite number");
  return value->get<double>();
}

bool JsonFields::boolean(std::string_view key, bool otherwise) const {
  const json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) wrong(key, *value, "true or false");
  return value->get<bool>();
}

std::string JsonFields::string(std::string_view key, std::string_view otherwise) const {
  const json* value = find(key);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) wrong(key, *value, "a string");
  return value->get<std::string>();
}

std::vector<std::int64_t> JsonFields::integers(std::string_view key, std::int64_t low,
                                               std::int64_t high) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {to_integer(key, *value, low, high)};
  std::vector<std::int64_t> out;
  for (const json& element : *value) out.push_back(to_integer(key, element, low, high));
  return out;
}

std::vector<std::string> JsonFields::strings(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) wrong(key, *value, "an array of strings");
  std::vector<std::string> out;
  for (const json& element : *value) {
    if (!element.is_string()) wrong(key, element, "a string in the array");
    out.push_back(element.get<std::string>());
  }
  return out;
}

}  // namespace kt::io
