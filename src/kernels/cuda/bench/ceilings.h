// What the GPU can do at most, measured: the rate at which a kernel reads memory, and bf16 products
// of cuBLASLt. Thread rule: one thread.
#pragma once
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda::bench {

/// Reads n_bytes (a multiple of 16) once and writes next to nothing.
Status read_all(const void* data, std::int64_t n_bytes, float* sink, int n_sms, Stream stream);

/// Fills n_bytes (a multiple of 4) with random bits; as bf16 values near 1 when `bf16`.
Status fill_random(void* data, std::int64_t n_bytes, bool bf16, std::uint32_t seed, Stream stream);

}  // namespace kt::kernels::cuda::bench
