// Values for measuring and checking kernels where any will do: the same on every run and machine.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <vector>

namespace kt {

/// n values in [-0.5, 0.5).
inline std::vector<float> noise(std::int64_t n, std::uint32_t seed = 1) {
  std::vector<float> values(static_cast<std::size_t>(n));
  std::uint32_t state = seed;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<std::int32_t>(state >> 8) - (1 << 23)) / (1 << 24);
  }
  return values;
}

}  // namespace kt
