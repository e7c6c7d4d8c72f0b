// JSON text from untrusted files: parsing with a depth limit, and typed field access whose errors
// name the file and the key. Private to io/. Thread rule: pure.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt::io {

/// Parses `text` into an object. Throws kBadFile for bad syntax, more than 100 levels, or another
/// kind of value at the top.
nlohmann::json parse_json_object(std::string_view text, const std::string& path);

/// Field access on one JSON object; a key that is null counts as missing. Wrong types and integers
/// outside [low, high] throw kBadFile.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string path, std::string prefix = {})
      : object_(&object), path_(std::move(path)), prefix_(std::move(prefix)) {}

  const std::string& path() const { return path_; }
  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  /// The value, or null when missing.
  const nlohmann::json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Whether the key is there, null or not.
  bool mentions(std::string_view key) const { return object_->contains(key); }
  /// Fields of an object value; nothing when missing.
  std::optional<JsonFields> object(std::string_view key) const;

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high,
                       std::int64_t otherwise) const;
  double number(std::string_view key, double otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;
  std::string string(std::string_view key, std::string_view otherwise) const;
  /// An array of integers, or one integer; empty when missing.
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t low,
                                     std::int64_t high) const;
  std::vector<std::string> strings(std::string_view key) const;

 private:
  [[noreturn]] void wrong(std::string_view key, const nlohmann::json& value,
                          const std::string& wanted) const;
  std::int64_t to_integer(std::string_view key, const nlohmann::json& value, std::int64_t low,
                          std::int64_t high) const;

  const nlohmann::json* object_;
  std::string path_;
  std::string prefix_;
};

}  // namespace kt::io
