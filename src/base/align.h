// Sizes rounded up to what is addressed as a whole.
// Thread rule: pure.
#pragma once
#include <cstddef>

namespace kt {

/// `bytes` rounded up to a multiple of `to`; 256 is what GPUs and transfers to them want.
constexpr std::size_t aligned(std::size_t bytes, std::size_t to = 256) {
  return (bytes + to - 1) / to * to;
}

}  // namespace kt
