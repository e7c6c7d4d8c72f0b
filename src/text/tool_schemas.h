// The types that a request's tools give their parameters, for models whose calls carry untyped
// text.
//
//   tools JSON → set of types per function and parameter → typed_value(types, text) → JSON text
//
// Thread rule: immutable once built.
#pragma once
#include <string>
#include <string_view>
#include <unordered_map>

namespace kt::text {

/// Bits of the JSON types that a value may have.
enum JsonTypes : unsigned {
  kTypeString = 1,
  kTypeNumber = 2,
  kTypeBoolean = 4,
  kTypeNull = 8,
  kTypeObject = 16,
  kTypeArray = 32,
  kTypeInteger = 64,
};
inline constexpr unsigned kTypeUnknown = 0;
inline constexpr unsigned kTypeNotString =
    kTypeNumber | kTypeBoolean | kTypeNull | kTypeObject | kTypeArray | kTypeInteger;

class ToolSchemas {
 public:
  /// Of OpenAI's `tools` array; empty text: no tools. Throws kUsage.
  explicit ToolSchemas(std::string_view tools_json);
  /// kTypeUnknown for what is not declared.
  unsigned types(const std::string& function, const std::string& parameter) const;

 private:
  std::unordered_map<std::string, std::unordered_map<std::string, unsigned>> functions_;
};

/// `text` as JSON: as it stands when it is JSON of one of the types (any but a string when they are
/// unknown), with Python's True, False and None understood; else as a string.
std::string typed_value(unsigned types, std::string_view text);

/// Whether brackets nest deeper than `limit` in a JSON text.
bool nests_deeper(std::string_view json, std::size_t limit);

}  // namespace kt::text
