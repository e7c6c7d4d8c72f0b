// Divisions by what the host knows: the compiler's own, by a number that a kernel is given, takes
// 100 clocks and more, where a launch takes some thousands. Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::kernels::cuda {

/// a / d, right while a · d < 2^32.
struct Divisor {
  int d = 1;
  std::uint32_t factor = 1;  // a little above 2^32 / d
  Divisor() = default;
  explicit Divisor(int d_)
      : d(d_), factor(static_cast<std::uint32_t>((std::uint64_t{1} << 32) / d_ + 1)) {}
  __device__ int of(int a) const { return d == 1 ? a : static_cast<int>(__umulhi(a, factor)); }
};

/// Consecutive parts of a whole, the first `more` one larger than `each`.
struct Parts {
  int each = 0, more = 0;
  Parts() = default;
  Parts(int whole, int parts) : each(whole / parts), more(whole % parts) {}
  __device__ int begin(int i) const { return i * each + (i < more ? i : more); }
  __device__ int size(int i) const { return each + (i < more ? 1 : 0); }
};

}  // namespace kt::kernels::cuda
