#include "operators/attend.h"

#include <algorithm>

namespace kt::operators {

void attend(Step& step, std::span<const SequenceRows> sequences, const AttendArgs& a) noexcept {
  namespace attention = kernels::attention;
  const std::int64_t group = a.n_heads / a.n_kv_heads;
  const std::int64_t heads_per_task = std::min(group, attention::kMaxRows);
  const std::int64_t head_chunks = (group + heads_per_task - 1) / heads_per_task;
  const std::int64_t tokens_per_task =
      std::max<std::int64_t>(1, attention::kMaxRows / heads_per_task);
  const std::int64_t scratch_size = attention::scratch_floats(a.dim_qk, a.dim_v);
  float* scratch = step.arena.allocate<float>(step.cpu.pool.size() * scratch_size);

  std::int64_t n_tasks = 0;
  for (const SequenceRows& s : sequences) {
    n_tasks += (s.n_rows + tokens_per_task - 1) / tokens_per_task;
  }
  const std::int64_t per_chunk = a.n_kv_heads * head_chunks;
  step.cpu.pool.run(n_tasks * per_chunk, [&](std::int64_t task, int worker) {
    const std::int64_t kv_head = task % per_chunk / head_chunks;
    const std::int64_t first_head = kv_head * group + task % head_chunks * heads_per_task;
    std::int64_t chunk = task / per_chunk;
    std::size_t i = 0;
    while (true) {
      const std::int64_t chunks = (sequences[i].n_rows + tokens_per_task - 1) / tokens_per_task;
      if (chunk < chunks) break;
      chunk -= chunks;
      ++i;
    }
    const SequenceRows& s = sequences[i];
    const std::int64_t token = chunk * tokens_per_task;
    const std::int64_t row = s.row_begin + token;
    attention::Args args;
    args.q = a.q + (row * a.n_heads + first_head) * a.dim_qk;
    args.q_token_stride = a.n_heads * a.dim_qk;
    args.q_head_stride = a.dim_qk;
    args.n_tokens = std::min(tokens_per_task, s.n_rows - token);
    args.n_heads = std::min(heads_per_task, (kv_head + 1) * group - first_head);
    args.position = s.position + token;
    args.k = a.k;
    args.v = a.v;
    args.pages = s.pages;
    args.kv_head = kv_head;
    args.dim_qk = a.dim_qk;
    args.dim_v = a.dim_v;
    args.scale = a.scale;
    args.window = a.window;
    args.out = a.out + (row * a.n_heads + first_head) * a.dim_v;
    args.out_token_stride = a.n_heads * a.dim_v;
    args.out_head_stride = a.dim_v;
    args.scratch = scratch + worker * scratch_size;
    step.cpu.attention->run(args);
  });
}

}  // namespace kt::operators
