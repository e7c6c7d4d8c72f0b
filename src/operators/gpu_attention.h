// Attention over a cache on a GPU: the kernel for the size of the heads, or its slow twin where
// there is none, with work memory of the step. Thread rule: as GpuStep.
#pragma once
#include "io/model_config.h"
#include "operators/gpu_step.h"

namespace kt::operators {

/// BF16 or F8_E4M3 as kernels call it.
kernels::cuda::CacheType gpu_cache_type(tensor::Format format);
/// A stream of a layer's cache as kernels take it.
kernels::cuda::KvCache gpu_cache(const tensor::KvStreamView& stream);

/// Whether GPUs have a kernel for heads of this size.
bool gpu_attends(std::int64_t dim_qk, std::int64_t dim_v);

/// `who` names the module in errors; split_keys and workspace of args are filled in. `heads`: what
/// is to be prepared first, in the same launch where the kernel does both.
void gpu_attend(GpuStep& gpu, const char* who, kernels::cuda::AttentionArgs args,
                const kernels::cuda::HeadsArgs* heads = nullptr) noexcept;

/// Scores of a slow twin; 0 where there is a kernel.
std::size_t gpu_score_bytes(std::int64_t n_rows, std::int64_t n_heads, std::int64_t n_keys,
                            std::int64_t dim_qk, std::int64_t dim_v);

/// Memory for keys and values per head that latent attention makes for a prompt of any length, in
/// one go or a few heads at a time.
std::size_t gpu_expand_bytes(const io::ModelConfig& config);

/// Temporaries of a layer's attention that grow with the context: slow twins' scores of `chunk`
/// rows, and expanded keys and values.
std::size_t gpu_attention_bytes(const io::ModelConfig& config, std::int64_t chunk,
                                std::int64_t context);

/// Memory in which a layer's cache of n_tokens is made bf16 for kernels that read nothing else,
/// where --kv is `format`.
std::size_t gpu_widened_bytes(const io::ModelConfig& config, tensor::Format format,
                              std::int64_t n_tokens);

}  // namespace kt::operators
