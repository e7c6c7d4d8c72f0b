#include "serve/fields.h"

#include <cmath>

#include "base/error.h"
#include "text/tool_schemas.h"

namespace kt::serve {
namespace {

constexpr std::size_t kMaxDepth = 64;  // the parser recurses, and would take any

}  // namespace

Json parse_object(const std::string& body) {
  if (text::nests_deeper(body, kMaxDepth)) {
    fail(ErrorCode::kUsage, "body", "nests deeper than {} levels", kMaxDepth);
  }
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::parse_error& error) {
    fail(ErrorCode::kUsage, "body", "is no valid JSON at byte {}", error.byte);
  } catch (const Json::exception&) {
    fail(ErrorCode::kUsage, "body", "holds a number that is out of range");
  }
  if (!json.is_object()) fail(ErrorCode::kUsage, "body", "a JSON object is wanted");
  return json;
}

std::string wire(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

const Json* Fields::find(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void Fields::refuse(const char* name, std::string_view wanted) const {
  const Json* value = find(name);
  std::string shown = value == nullptr ? "missing" : wire(*value);
  if (shown.size() > 60) shown = shown.substr(0, 60) + "…";
  fail(ErrorCode::kUsage, where_ + name, "{} is wanted, not {}", wanted, shown);
}

std::optional<double> Fields::number(const char* name, double low, double high) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const double number = value->get<double>();
    if (number >= low && number <= high) return number;
  }
  refuse(name, fmt::format("a number from {} to {}", low, high));
}

std::optional<std::int64_t> Fields::whole(const char* name, std::int64_t low,
                                          std::int64_t high) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<std::uint64_t>() <= INT64_MAX);
  if (fits || (value->is_number_float() && std::abs(value->get<double>()) < 9e15 &&
               std::floor(value->get<double>()) == value->get<double>())) {
    const auto number =
        fits ? value->get<std::int64_t>() : static_cast<std::int64_t>(value->get<double>());
    if (number >= low && number <= high) return number;
  }
  refuse(name, high == INT64_MAX ? fmt::format("a whole number of at least {}", low)
                                 : fmt::format("a whole number from {} to {}", low, high));
}

std::optional<std::uint64_t> Fields::seed() const {
  const auto seed = whole("seed", INT64_MIN, INT64_MAX);
  if (!seed) return std::nullopt;
  return *seed == -1 ? 0 : static_cast<std::uint64_t>(*seed) ^ 0x9e3779b97f4a7c15ULL;
}

std::optional<bool> Fields::flag(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse(name, "true or false");
  return value->get<bool>();
}

std::optional<std::string> Fields::text(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(name, "a string");
  return value->get<std::string>();
}

std::vector<std::string> Fields::texts(const char* name, std::size_t most) const {
  const Json* value = find(name);
  std::vector<std::string> all;
  if (value == nullptr) return all;
  const auto take = [&](const Json& item) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      refuse(name, "a string, or an array of strings, none of them empty,");
    }
    all.push_back(item.get<std::string>());
  };
  if (value->is_array()) {
    if (value->size() > most) refuse(name, fmt::format("an array of at most {} strings", most));
    for (const Json& item : *value) take(item);
  } else {
    take(*value);
  }
  return all;
}

}  // namespace kt::serve
