// The expert products of one weight format, as one function: what moe.cu chooses from and
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
  const std::int32_t* ids = nullptr;    // [n_pairs], when every pair is a piece
  const std::int32_t* pairs = nullptr;  // sorted by expert, else null
  const Piece* pieces = nullptr;        // [*n_pieces]
  const std::int32_t* n_pieces = nullptr;
  std::int64_t max_pieces = 0;
};

using GroupedKernel = Status (*)(const GroupedArgs& args, Stream stream);

template <formats::Format kFormat>
Status grouped(const GroupedArgs& args, Stream stream);
#define EXPERTS(id) \
  template <>       \
  Status grouped<formats::Format::id>(const GroupedArgs& args, Stream stream);
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS

}  // namespace kt::kernels::cuda
