// What stands before packed weights, so that those that were packed otherwise (by another version,
// for another CPU or GPU, for another activation type) are told apart instead of misread.
// Thread rule: pure.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/error.h"

namespace kt::python {

struct PackHeader {
  char magic[8];
  std::uint64_t layout;  // hash of all that the layout depends on
  std::int64_t n, k;
  std::int64_t n_exponents;  // int8 values behind the packed bytes; CPU
  char unused[24];
};
static_assert(sizeof(PackHeader) == 64);

inline PackHeader make_pack_header(const std::string& layout, std::int64_t n, std::int64_t k,
                                   std::int64_t n_exponents) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : layout) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3u;
  return {{'K', 'T', 'P', 'A', 'C', 'K', '0', '1'}, hash, n, k, n_exponents, {}};
}

/// Throws kUsage unless `begin`, the first bytes of what has `got` of them, is the header `wanted`
/// of what has `size`. `kernel` names what the weight is wanted for.
inline void check_pack_header(const std::string& name, std::string_view begin, std::int64_t got,
                              const PackHeader& wanted, std::size_t size,
                              const std::string& kernel) {
  PackHeader header{};
  if (begin.size() >= sizeof header) std::memcpy(&header, begin.data(), sizeof header);
  if (std::memcmp(header.magic, wanted.magic, sizeof header.magic) != 0)
    fail(ErrorCode::kUsage, name, "was not made by ops.pack");
  if (header.n != wanted.n || header.k != wanted.k) {
    fail(ErrorCode::kUsage, name, "holds a weight of shape [{}, {}]; [{}, {}] is wanted", header.n,
         header.k, wanted.n, wanted.k);
  }
  if (std::memcmp(&header, &wanted, sizeof header) == 0 && got == static_cast<std::int64_t>(size)) {
    return;
  }
  fail(ErrorCode::kUsage, name,
       "was packed for another device, another CPU, format or activation type than {}; pack the "
       "weight here",
       kernel);
}

}  // namespace kt::python
