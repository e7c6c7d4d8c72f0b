#include "io/quote.h"

#include <filesystem>

#include "base/error.h"
#include "io/mmap_file.h"

namespace kt::io {

std::string quote(std::string_view text) {
  constexpr std::size_t kMaxShown = 100;
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == kMaxShown) {
      out += "...";
      break;
    }
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c >= 0x7f) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += text[i];
    }
  }
  out += '"';
  return out;
}

bool is_directory(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

std::string read_text_file(const std::string& path, std::size_t max_bytes) {
  const MmapFile file(path);
  if (file.size() > max_bytes) {
    fail(ErrorCode::kBadFile, path, "has {} bytes, at most {} are accepted for this kind of file",
         file.size(), max_bytes);
  }
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.size());
}

}  // namespace kt::io
