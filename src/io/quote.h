// Names and strings from untrusted files, made safe to print in one line of an error message.
// Thread rule: pure.
#pragma once
#include <string>
#include <string_view>

namespace kt::io {

/// `text` in double quotes; control and non-ASCII bytes escaped as \xNN, cut after 100 bytes.
std::string quote(std::string_view text);

/// Whether the path names an existing directory.
bool is_directory(const std::string& path);

/// The whole file as text. Throws kNotFound, kIo, and kBadFile when it is larger than `max_bytes`.
std::string read_text_file(const std::string& path, std::size_t max_bytes);

}  // namespace kt::io
