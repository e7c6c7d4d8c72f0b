#include "input.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/utf8.h"

namespace kt::app {
namespace {

/// Offset of the first byte that does not continue valid UTF-8.
std::optional<std::size_t> first_bad_byte(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = first_utf8(text.substr(i)).length;
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

}  // namespace

std::string read_file(const std::string& path) {
  constexpr std::size_t kLargest = std::size_t{1} << 30;
  std::error_code ignored;
  if (path != "-" && std::filesystem::is_directory(path, ignored)) {
    fail(ErrorCode::kUsage, path, "is a folder; a file is wanted");
  }
  const auto close = [](std::FILE* f) { return f == stdin ? 0 : std::fclose(f); };
  const std::unique_ptr<std::FILE, decltype(close)> file(
      path == "-" ? stdin : std::fopen(path.c_str(), "rb"), close);
  if (file == nullptr) {
    fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, path, "cannot be read: {}",
         std::strerror(errno));
  }
  std::string text;
  char buffer[1 << 16];
  std::size_t n = 0;
  while ((n = std::fread(buffer, 1, sizeof buffer, file.get())) > 0) {
    text.append(buffer, n);
    if (text.size() > kLargest)
      fail(ErrorCode::kBadFile, path, "is larger than 1 GiB; text is wanted here");
  }
  if (std::ferror(file.get()) != 0)
    fail(ErrorCode::kIo, path, "cannot be read: {}", std::strerror(errno));
  return text;
}

std::string read_text_file(const std::string& path) {
  std::string text = read_file(path);
  if (const auto bad = first_bad_byte(text)) {
    fail(ErrorCode::kBadFile, path, "is not UTF-8 text: byte {} is 0x{:02x}; convert it first",
         *bad, static_cast<unsigned char>(text[*bad]));
  }
  return text;
}

void check_utf8(std::string_view text, const std::string& where) {
  if (const auto bad = first_bad_byte(text)) {
    fail(ErrorCode::kUsage, where, "is not UTF-8 text: byte {} is 0x{:02x}", *bad,
         static_cast<unsigned char>(text[*bad]));
  }
}

std::vector<std::int32_t> read_token_file(const std::string& path) {
  const std::string text = read_file(path);
  const nlohmann::json array = nlohmann::json::parse(text, nullptr, false);
  if (!array.is_array()) {
    fail(ErrorCode::kBadFile, path, "is not a JSON array of token ids such as [1, 15043, 3186]");
  }
  std::vector<std::int32_t> ids;
  ids.reserve(array.size());
  for (const auto& value : array) {
    if (!value.is_number_integer() || value < 0 ||
        value > std::numeric_limits<std::int32_t>::max()) {
      const std::string got =
          value.is_number() ? value.dump() : std::string("a ") + value.type_name();
      fail(ErrorCode::kBadFile, path,
           "element {} is {}; a token id (a whole number from 0 on) is wanted", ids.size(), got);
    }
    ids.push_back(value.get<std::int32_t>());
  }
  if (ids.empty()) fail(ErrorCode::kBadFile, path, "holds no token ids; at least one is wanted");
  return ids;
}

void check_writable(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    fail(ErrorCode::kIo, path, "is a folder; name the file to write");
  }
  const fs::path folder =
      fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
  if (!fs::is_directory(folder, ignored)) {
    fail(ErrorCode::kIo, path, "cannot be written: {} is not a folder; create it first",
         folder.string());
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    fail(ErrorCode::kIo, path, "cannot be written: {}: {}", folder.string(), std::strerror(errno));
  }
}

}  // namespace kt::app
