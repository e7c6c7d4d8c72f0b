// Products of many rows of x on devices of compute capability 9.0, weights decoded on their way
// into the tensor cores: what gemm.cc chooses and many_*.cu instantiate. Thread rule: status.h.
#pragma once
#include "formats/format.h"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// y[m, n] = x[m, k] · w[n, k]ᵀ + bias.
struct ManyArgs {
  const void* tiles = nullptr;
  std::int64_t n = 0, k = 0;
  const std::uint16_t* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t m = 0;
  void* out = nullptr;
  Type out_type = Type::kF32;
  std::int64_t out_stride = 0;
  const float* bias = nullptr;
};

/// Whether this format has kernels and the thread's device runs them. They want x 16-byte aligned,
/// x_stride and k multiples of 8.
bool has_many_rows(formats::Format format);
Status multiply_many_rows(formats::Format format, const ManyArgs& args, Stream stream);

template <formats::Format kFormat>
Status many_rows(const ManyArgs& args, Stream stream);
#define MANY(id) \
  template <>    \
  Status many_rows<formats::Format::id>(const ManyArgs& args, Stream stream);
#include "kernels/cuda/gemm/many_rows.inc"
#undef MANY

}  // namespace kt::kernels::cuda
