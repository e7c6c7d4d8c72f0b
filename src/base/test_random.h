// Random values for tests: the same on every run.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

namespace kt {

/// n values of a normal distribution around 0.
inline std::vector<float> gaussian(std::int64_t n, unsigned seed, float sigma = 1.0f) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = normal(bits);
  return x;
}

}  // namespace kt
