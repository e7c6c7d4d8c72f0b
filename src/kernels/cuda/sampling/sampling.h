// The short list of a row of logits: its largest values in order and sums over all of it, so that
// the host chooses a token without the row (engine/sampler.h).
//
//   ids, logits   the n largest; of equals the lower id first, -0 equals 0
//   sum           Σ exp(l − largest),   scaled_sum: Σ exp(scale · (l − largest)), over the row
//
// The fast way keeps the largest of each of some thousand groups of logits, finds a bound that
// kListed of these reach, looks at the groups that do, and sorts what reaches it there.
// Thread rule: status.h.
#pragma once
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

inline constexpr std::int64_t kListed = 128;
/// The sums are right to this share of themselves.
inline constexpr double kListSumError = 1e-5;

struct alignas(16) RowList {
  double sum = 0.0, scaled_sum = 0.0;
  std::int32_t n = 0;  // listed; 0: look at the row, not finite or crowded in few groups
  float largest = 0.0f;
  std::int32_t ids[kListed] = {};
  float logits[kListed] = {};
};

struct ListArgs {
  const float* logits = nullptr;  // [m, n], stride elements apart
  std::int64_t m = 0, n = 0, stride = 0;
  const float* scales = nullptr;  // [m], above 0
  RowList* lists = nullptr;       // [m], device memory or, by device address, pinned memory
  std::uint32_t* flag = nullptr;  // holds `value` once all lists are there; null: none
  std::uint32_t value = 0;
  void* workspace = nullptr;  // 16-byte aligned
  std::size_t workspace_bytes = 0;
};

std::size_t list_rows_workspace(const ListArgs& args);
/// kUnsupported for rows of more than 2^20 logits.
Status list_rows(const ListArgs& args, Stream stream);

/// The slow twin: one value after the other, sums in double precision. No flag, no workspace; n is
/// 0 only where the row is not finite.
Status list_rows_reference(const ListArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
