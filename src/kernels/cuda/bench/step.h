// What decoding one token costs in a layer of routed experts: its launches one by one and together.
// Thread rule: one thread.
#pragma once
#include "kernels/cuda/bench/harness.h"

namespace kt::kernels::cuda::bench {

/// A layer like Qwen3-30B-A3B's, Q4_K with Q6_K for v and down in half of the layers, F32 router;
/// `keys` in the cache.
void bench_step(Harness& harness, std::int64_t keys);

}  // namespace kt::kernels::cuda::bench
