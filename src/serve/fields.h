// Reads the fields of a request's JSON object, with errors that name the field. Null is absent;
// fields that nobody asks for are ignored.
//
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt::serve {

using Json = nlohmann::ordered_json;

/// The object in a request's body. Throws kUsage: no JSON, no object, nested too deep.
Json parse_object(const std::string& body);

/// JSON as it goes over the wire: one line, always valid UTF-8.
std::string wire(const Json& json);

class Fields {
 public:
  /// `where` stands before names in messages ("options.").
  explicit Fields(const Json& object, std::string where = {});
  /// The value, or null when it is absent or null.
  const Json* find(const char* name) const;
  std::optional<double> number(const char* name, double low, double high) const;
  std::optional<std::int64_t> whole(const char* name, std::int64_t low, std::int64_t high) const;
  /// "seed" as the sampler takes it: its 0 stands for -1, any; 0 is a seed like others.
  std::optional<std::uint64_t> seed() const;
  std::optional<bool> flag(const char* name) const;
  std::optional<std::string> text(const char* name) const;
  /// A string or an array of strings, none empty.
  std::vector<std::string> texts(const char* name, std::size_t most) const;
  /// Throws kUsage: "NAME is …; WANTED is wanted".
  [[noreturn]] void refuse(const char* name, std::string_view wanted) const;

 private:
  const Json& object_;
  std::string where_;
};

}  // namespace kt::serve
