// Row-wise vector kernels between matrix products: norms, activation functions, rotary embedding,
// sums. One source (elementwise_impl.inc) is compiled once per ISA with GCC vector extensions;
// without FMA contraction the results are the same on every ISA. kernels.inc lists the ISAs.
//
//   rms_norm   out = x / sqrt(mean(x²) + eps) * weight
//   silu_mul   out = gate * sigmoid(gate) * up
//   rope_half  pairs (i, i + d/2): HF's rotate_half;  rope_pairs  pairs (2i, 2i + 1): GPT-J and
//   DeepSeek softmax    in place
// Thread rule: pure; called concurrently on disjoint rows.
#pragma once
#include <cstdint>
#include <span>

#include "base/cpu.h"

namespace kt::kernels::elementwise {

struct Table {
  const char* name;  // ISA
  CpuCaps caps;
  void (*rms_norm)(const float* x, const float* weight, float eps, std::int64_t n,
                   float* out) noexcept;
  void (*silu_mul)(const float* gate, const float* up, std::int64_t n, float* out) noexcept;
  void (*add)(const float* x, std::int64_t n, float* sum) noexcept;  // sum += x
  void (*scale_add)(const float* x, float scale, std::int64_t n, float* sum) noexcept;
  void (*rope_half)(const float* cos, const float* sin, std::int64_t d, float* x) noexcept;
  void (*rope_pairs)(const float* cos, const float* sin, std::int64_t d, float* x) noexcept;
  void (*softmax)(float* x, std::int64_t n) noexcept;
};

std::span<const Table* const> tables();

/// The best table for `caps`.
const Table& select(CpuCaps caps);

}  // namespace kt::kernels::elementwise
