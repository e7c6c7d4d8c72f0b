// The attention region shared by the attention operators: divides (sequence, query rows, kv head),
// and where that is too little work for all threads the keys too, into tasks for the attention
// kernel. Thread rule: called by the thread that walks the tree.
#pragma once
#include "operators/step.h"

namespace kt::operators {

/// Query heads of a group that are not divided further.
inline constexpr std::int64_t kFewestHeads = 4;

struct AttendArgs {
  const float* q = nullptr;  // [n_rows, n_heads, dim_qk]
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t dim_qk = 0;
  std::int64_t dim_v = 0;
  float scale = 1.0f;
  std::int64_t window = 0;
  tensor::KvStreamView k;
  tensor::KvStreamView v;
  float* out = nullptr;  // [n_rows, n_heads, dim_v]
};

/// Attention of every row of `sequences` (row_begin: into q and out) over its sequence's cache,
/// which already holds the rows themselves.
void attend(Step& step, std::span<const SequenceRows> sequences, const AttendArgs& args) noexcept;

/// Floats of work memory that attend() takes at most.
std::int64_t attend_floats(std::int64_t dim_qk, std::int64_t dim_v, std::int64_t n_threads);

/// Calls f(row, sequence, position) for every row of the batch, in parallel when that pays.
template <class F>
void for_positions(Step& step, F&& f) noexcept {
  for (const SequenceRows& s : step.batch.sequences) {
    if (s.n_rows < 4) {
      for (std::int64_t i = 0; i < s.n_rows; ++i) f(s.row_begin + i, s, s.position + i);
    } else {
      step.cpu.pool.run(s.n_rows,
                        [&](std::int64_t i, int) { f(s.row_begin + i, s, s.position + i); });
    }
  }
}

}  // namespace kt::operators
