// SHA-256 (FIPS 180-4): to check files that were fetched, and to name what is kept by its content.
// Thread rule: pure.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace kt {

using Sha256 = std::array<std::uint8_t, 32>;

Sha256 sha256(std::span<const std::byte> bytes);
/// Lower-case hexadecimal digits.
std::string hex(const Sha256& digest);
std::string sha256_hex(std::span<const std::byte> bytes);

}  // namespace kt
