#include "io/files.h"

#include <filesystem>

#include "base/error.h"
#include "io/mmap_file.h"

namespace kt::io {

bool is_directory(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

std::string folder_of(const std::string& path) {
  if (is_directory(path)) return path;
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

std::string read_text_file(const std::string& path, std::size_t max_bytes) {
  const MmapFile file(path);
  if (file.size() > max_bytes) {
    fail(ErrorCode::kBadFile, path, "has {} bytes, at most {} are accepted for this kind of file",
         file.size(), max_bytes);
  }
  return {reinterpret_cast<const char*>(file.bytes().data()), file.size()};
}

}  // namespace kt::io
