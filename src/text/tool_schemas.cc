#include "text/tool_schemas.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "text/reply_syntax.h"

namespace kt::text {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxNesting = 100;
constexpr int kMaxSchemaDepth = 16;  // of unions and references
constexpr int kMaxSchemaSteps = 10000;

unsigned type_named(const std::string& name) {
  if (name == "string") return kTypeString;
  if (name == "integer") return kTypeInteger;
  if (name == "number") return kTypeNumber | kTypeInteger;
  if (name == "boolean") return kTypeBoolean;
  if (name == "null") return kTypeNull;
  if (name == "object") return kTypeObject;
  return name == "array" ? unsigned{kTypeArray} : kTypeUnknown;
}

unsigned type_of(const json& value) {
  if (value.is_string()) return kTypeString;
  if (value.is_number_integer()) return kTypeInteger;
  if (value.is_number()) return kTypeNumber;
  if (value.is_boolean()) return kTypeBoolean;
  if (value.is_null()) return kTypeNull;
  return value.is_object() ? unsigned{kTypeObject} : unsigned{kTypeArray};
}

const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::string text_or(const json& object, const char* key) {
  const json* found = member(object, key);
  return found != nullptr && found->is_string() ? found->get<std::string>() : std::string();
}

// What a reference inside the document, "#/$defs/name", points to.
const json* referred(const json& root, const std::string& reference) {
  if (!reference.starts_with("#")) return nullptr;
  try {
    const json::json_pointer pointer(reference.substr(1));
    return root.contains(pointer) ? &root.at(pointer) : nullptr;
  } catch (const json::exception&) {
    return nullptr;
  }
}

// `steps` are left for all tools together: references may multiply.
unsigned types_in(const json& schema, const json& root, int depth, int& steps) {
  if (depth > kMaxSchemaDepth || --steps < 0) return kTypeUnknown;
  unsigned types = kTypeUnknown;
  if (const json* type = member(schema, "type")) {
    if (type->is_string()) types |= type_named(type->get<std::string>());
    if (type->is_array()) {
      for (const json& t : *type)
        if (t.is_string()) types |= type_named(t.get<std::string>());
    }
  }
  if (types != kTypeUnknown) return types;
  if (const json* values = member(schema, "enum"); values != nullptr && values->is_array()) {
    for (const json& value : *values) types |= type_of(value);
  }
  if (const json* value = member(schema, "const")) types |= type_of(*value);
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    const json* parts = member(schema, key);
    if (parts == nullptr || !parts->is_array()) continue;
    for (const json& part : *parts) types |= types_in(part, root, depth + 1, steps);
  }
  if (const json* target = referred(root, text_or(schema, "$ref"))) {
    types |= types_in(*target, root, depth + 1, steps);
  }
  return types;
}

}  // namespace

ToolSchemas::ToolSchemas(std::string_view tools_json) {
  if (tools_json.empty()) return;
  const char* kPath = "tools";
  if (nests_deeper(tools_json, kMaxNesting))
    fail(ErrorCode::kUsage, kPath, "nests deeper than {} levels", kMaxNesting);
  const json tools = json::parse(tools_json, nullptr, false);
  if (!tools.is_array()) fail(ErrorCode::kUsage, kPath, "a JSON array is wanted");
  int steps = kMaxSchemaSteps;
  for (const json& tool : tools) {
    const json* function = member(tool, "function");
    if (function == nullptr) function = &tool;
    auto& parameters = functions_[text_or(*function, "name")];
    const json* schema = member(*function, "parameters");
    if (schema == nullptr) continue;
    const json* properties = member(*schema, "properties");
    if (properties == nullptr || !properties->is_object()) continue;
    for (const auto& [name, property] : properties->items())
      parameters[name] = types_in(property, *schema, 0, steps);
  }
}

unsigned ToolSchemas::types(const std::string& function, const std::string& parameter) const {
  const auto found = functions_.find(function);
  if (found == functions_.end()) return kTypeUnknown;
  const auto types = found->second.find(parameter);
  return types == found->second.end() ? kTypeUnknown : types->second;
}

bool nests_deeper(std::string_view text, std::size_t limit) {
  std::size_t depth = 0;
  bool string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (string) {
      if (c == '\\') ++i;
      string = c != '"';
    } else if (c == '"') {
      string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > limit) return true;
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return false;
}

std::string typed_value(unsigned types, std::string_view text) {
  const std::string as_string = '"' + json_escaped(text) + '"';
  if (types == kTypeString) return as_string;
  std::string_view trimmed = text;
  while (!trimmed.empty() && is_space(trimmed.front())) trimmed.remove_prefix(1);
  while (!trimmed.empty() && is_space(trimmed.back())) trimmed.remove_suffix(1);
  const bool any = types == kTypeUnknown;
  if ((types & kTypeBoolean) != 0 && trimmed == "True") return "true";
  if ((types & kTypeBoolean) != 0 && trimmed == "False") return "false";
  if ((types & kTypeNull) != 0 && trimmed == "None") return "null";
  const json value = json::parse(trimmed, nullptr, false);
  if (value.is_discarded()) return as_string;
  // A string in quotes stays as it was written, quotes included, where strings are allowed.
  if (value.is_string() && (any || (types & kTypeString) != 0)) return as_string;
  const bool fits = any || (types & type_of(value)) != 0 || (types & kTypeString) == 0;
  return fits ? std::string(trimmed) : as_string;
}

}  // namespace kt::text
