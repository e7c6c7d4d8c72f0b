// SHA-256 (FIPS 180-4), to check files that were fetched.
// Thread rule: pure.
#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace kt::session {

/// Lower-case hexadecimal digest.
std::string sha256_hex(std::span<const std::byte> bytes);

}  // namespace kt::session
