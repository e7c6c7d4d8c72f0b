// The products of all heads (attention/latent.h) of DeepSeek-V3: queries to latents, latents to
// values, keys of cached latents. Thread rule: one thread.
#pragma once
#include "kernels/cuda/bench/harness.h"

namespace kt::kernels::cuda::bench {

void bench_head_products(Harness& h);

}  // namespace kt::kernels::cuda::bench
