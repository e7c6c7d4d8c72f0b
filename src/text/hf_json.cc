#include "text/hf_json.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "base/error.h"

namespace kt::text {
namespace {

constexpr std::uint64_t kMaxFile = 1ULL << 30;
constexpr int kMaxDepth = 100;

/// nlohmann::json parses without recursion but is destroyed with it: limit the depth first.
bool too_deep(const std::string& text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kMaxDepth) return true;
  }
  return false;
}

}  // namespace

std::optional<std::string> read_optional(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorCode::kIo, path, "cannot read the size: {}", error.message());
  if (size > kMaxFile)
    fail(ErrorCode::kBadFile, path, "has {} bytes, at most {} are accepted", size, kMaxFile);
  std::string text(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file || !file.read(text.data(), static_cast<std::streamsize>(size))) {
    fail(ErrorCode::kIo, path, "cannot read: {}", std::strerror(errno));
  }
  return text;
}

nlohmann::json read_optional_json(const std::string& path) {
  const std::optional<std::string> text = read_optional(path);
  if (!text) return nlohmann::json::object();
  if (too_deep(*text))
    fail(ErrorCode::kBadFile, path,
         "is JSON nested deeper than {} levels, which no tokenizer file is; get it again",
         kMaxDepth);
  nlohmann::json value = nlohmann::json::parse(*text, nullptr, false);
  if (!value.is_object())
    fail(ErrorCode::kBadFile, path, "is not a JSON object; the file is damaged, get it again");
  return value;
}

std::string string_or(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string token_text(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  if (found == object.end()) return {};
  return found->is_object() ? string_or(*found, "content") : string_or(object, key);
}

std::optional<bool> bool_of(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto found = object.find(key);
  if (found == object.end() || !found->is_boolean()) return std::nullopt;
  return found->get<bool>();
}

}  // namespace kt::text
