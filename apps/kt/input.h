// Text that the user names or types: whole files with clear errors, and UTF-8 checks.
// Thread rule: pure reads.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kt::app {

/// The content of a file, or of standard input for "-". Throws kNotFound, kIo, and kBadFile above 1
/// GiB.
std::string read_file(const std::string& path);

/// read_file() that must be valid UTF-8; throws kBadFile with the offset of the first bad byte.
std::string read_text_file(const std::string& path);

/// Throws kUsage naming `where` and the offset when `text` is not valid UTF-8.
void check_utf8(std::string_view text, const std::string& where);

/// Token ids from a file that holds one JSON array of numbers. Throws kBadFile.
std::vector<std::int32_t> read_token_file(const std::string& path);

/// Throws kIo before any work is done when `path` cannot be created or replaced.
void check_writable(const std::string& path);

}  // namespace kt::app
