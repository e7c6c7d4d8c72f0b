// The expert products of one weight format, as a row of pointers: what moe.cu chooses from and
// experts_*.cu instantiate. Thread rule: status.h.
#pragma once
#include "formats/format.h"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// Rows of x that one piece of work shares weights among.
inline constexpr int kPieceRows = 32;

/// Pairs [begin, begin + count) of the list, all of one expert.
struct Piece {
  std::int32_t expert, begin, count;
};

/// The pairs of few tokens. Gate: out[pair] = silu(first·x) · (second·x), bf16, [m · n_active, n].
/// Down: out[token] (+)= Σ weights[pair] · first·x[pair].
struct FewArgs {
  const void* first = nullptr;
  const void* second = nullptr;  // null: down
  std::int64_t n_experts = 0, n = 0, k = 0;
  std::int64_t m = 0;
  int n_active = 0;
  const std::uint16_t* x = nullptr;  // of tokens for gate, of pairs for down
  std::int64_t x_stride = 0;
  const std::int32_t* ids = nullptr;  // [m, n_active]
  const float* weights = nullptr;     // [m, n_active], down
  void* out = nullptr;
  Type out_type = Type::kF32;  // down
  std::int64_t out_stride = 0;
  bool add = false;
};

/// out[pair] for every pair of every piece. Gate: out = silu(first·x) · (second·x), bf16. Down: out
/// = first·x, f32.
struct GroupedArgs {
  const void* first = nullptr;
  const void* second = nullptr;  // null: down
  std::int64_t n_experts = 0, n = 0, k = 0;
  const std::uint16_t* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t rows_of_x = 1;           // pair p reads row p / rows_of_x
  void* out = nullptr;                  // [n_pairs, n]
  const std::int32_t* pairs = nullptr;  // sorted by expert
  const Piece* pieces = nullptr;        // [*n_pieces]
  const std::int32_t* n_pieces = nullptr;
  std::int64_t max_pieces = 0;
};

struct ExpertKernels {
  /// Whether shared memory of the thread's device holds what few() wants.
  bool (*few_fit)(const FewArgs& args) = nullptr;
  Status (*few)(const FewArgs& args, Stream stream) = nullptr;
  Status (*grouped)(const GroupedArgs& args, Stream stream) = nullptr;
};

template <formats::Format kFormat>
const ExpertKernels& expert_kernels();
#define EXPERTS(id) \
  template <>       \
  const ExpertKernels& expert_kernels<formats::Format::id>();
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS

}  // namespace kt::kernels::cuda
