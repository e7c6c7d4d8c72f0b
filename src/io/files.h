// Small questions about paths, and whole small files.
// Thread rule: pure.
#pragma once
#include <cstddef>
#include <string>

namespace kt::io {

/// Whether the path names an existing directory.
bool is_directory(const std::string& path);

/// The path itself when it names a folder, else the folder that its file lies in ("." for none).
std::string folder_of(const std::string& path);

/// The whole file as text. Throws kNotFound, kIo, and kBadFile when it is larger than `max_bytes`.
std::string read_text_file(const std::string& path, std::size_t max_bytes);

}  // namespace kt::io
