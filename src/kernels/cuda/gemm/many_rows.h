// Products of many rows of x on devices of compute capability 9.0, weights decoded on their way
// into the tensor cores: what gemm.cc and moe.cu choose from and many_*.cu instantiate.
// Thread rule: status.h.
#pragma once
#include "formats/format.h"
#include "kernels/cuda/moe/grouped.h"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// Pairs of a piece.
inline constexpr int kManyPairs = 128;
/// Pairs of a small piece: decoding is what those cost, and less so beside narrower products.
inline constexpr int kSmallPairs = 64;

/// Dense: y[m, n] = x[m, k] · w[n, k]ᵀ + bias. Grouped (pieces given): out[pair] as GroupedArgs of
/// moe/grouped.h has it, in pieces of up to kManyPairs pairs, then those of up to kSmallPairs.
struct ManyArgs {
  const void* first = nullptr;
  const void* second = nullptr;  // gate's other matrix
  std::int64_t n = 0, k = 0;
  const std::uint16_t* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t rows_of_x = 1;  // pair p reads row p / rows_of_x
  void* out = nullptr;
  Type out_type = Type::kF32;
  std::int64_t out_stride = 0;
  const float* bias = nullptr;
  std::int64_t m = 0;                   // dense
  const std::int32_t* pairs = nullptr;  // grouped
  const Piece* pieces = nullptr;
  const std::int32_t* n_pieces = nullptr;  // [2], the second: small ones
  std::int64_t max_pieces = 0;
};

/// How a dense product is shared out: rows of x that a block multiplies at a time (64, 128 or 256);
/// blocks of a cluster that have the same ones (1 or 2); parts of k (1, 2, 4 or 8, at most k / 256,
/// with share at most 8 blocks); and the microseconds that this takes an H100, about.
struct ManyPlan {
  int rows = 256, share = 2, splits = 1;
  double cost = 0.0;
};
ManyPlan plan_many_rows(std::int64_t n, std::int64_t k, std::int64_t m, int n_sms);

/// A dense product in one launch, or in two, the first with the first `rows` rows of x: where in
/// one the last round of blocks would be few.
struct ManyLaunches {
  std::int64_t rows = 0;  // m: one launch
  ManyPlan first, rest;
  double cost = 0.0;
};
ManyLaunches plan_many_launches(std::int64_t n, std::int64_t k, std::int64_t m, int n_sms);

/// Whether this format has kernels and the thread's device runs them. They want x 16-byte aligned,
/// x_stride and k multiples of 8.
bool has_many_rows(formats::Format format);
Status multiply_many_rows(formats::Format format, const ManyArgs& args, const ManyPlan& plan,
                          Stream stream);
Status multiply_experts(formats::Format format, const ManyArgs& args, Stream stream);

struct ManyKernels {
  Status (*dense)(const ManyArgs& args, const ManyPlan& plan, Stream stream) = nullptr;
  Status (*gate)(const ManyArgs& args, Stream stream) = nullptr;
  Status (*down)(const ManyArgs& args, Stream stream) = nullptr;
};
template <formats::Format kFormat>
const ManyKernels& many_kernels();
#define MANY(id) \
  template <>    \
  const ManyKernels& many_kernels<formats::Format::id>();
#include "kernels/cuda/gemm/many_rows.inc"
#undef MANY

}  // namespace kt::kernels::cuda
