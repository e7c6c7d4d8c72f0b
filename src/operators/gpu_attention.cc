#include "operators/gpu_attention.h"

#include <algorithm>
#include <initializer_list>

namespace kt::operators {
namespace {

// The product of positive numbers, or `most` where it is larger: contexts in files may be absurd.
std::int64_t product(std::initializer_list<std::int64_t> factors, std::int64_t most) {
  std::int64_t all = 1;
  for (const std::int64_t factor : factors) {
    if (factor > most / all) return most;
    all *= factor;
  }
  return all;
}

}  // namespace

kernels::cuda::CacheType gpu_cache_type(tensor::Format format) {
  using kernels::cuda::CacheType;
  return format == tensor::Format::kF8_E4M3 ? CacheType::kE4M3 : CacheType::kBF16;
}

kernels::cuda::KvCache gpu_cache(const tensor::KvStreamView& s) {
  return {s.base, s.n_heads * s.dim, s.dim, gpu_cache_type(s.format), s.n_pages};
}

bool gpu_attends(std::int64_t dim_qk, std::int64_t dim_v) {
#define ATTENTION(qk, v, launch) \
  if (dim_qk == (qk) && dim_v == (v)) return true;
#include "kernels/cuda/attention/kernels.inc"
#undef ATTENTION
  return false;
}

void gpu_attend(GpuStep& gpu, const char* who, kernels::cuda::AttentionArgs args,
                const kernels::cuda::HeadsArgs* heads) noexcept {
  const std::size_t mark = gpu.mark();
  const backend::GpuApi& api = gpu.gpu().api();
  const bool fast = api.has_attention(args.dim_qk, args.dim_v);
  // What follows depends on the thread's device.
  gpu.run(who, [](auto&, auto) { return kernels::cuda::Status::kOk; });
  args.split_keys = api.attention_split_keys(args, gpu.gpu().info());
  args.workspace_bytes =
      fast ? api.attention_workspace(args) : api.attention_reference_workspace(args);
  args.workspace = gpu.allocate(args.workspace_bytes);
  gpu.run(who, [&](auto& k, auto stream) {
    if (fast && heads != nullptr) return k.attention_of_heads(*heads, args, stream);
    if (fast) return k.attention(args, stream);
    const auto status =
        heads == nullptr ? kernels::cuda::Status::kOk : k.prepare_heads(*heads, stream);
    const bool ok = status == kernels::cuda::Status::kOk;
    return ok ? k.attention_reference(args, stream) : status;
  });
  gpu.release(mark);
}

std::size_t gpu_score_bytes(std::int64_t n_rows, std::int64_t n_heads, std::int64_t n_keys,
                            std::int64_t dim_qk, std::int64_t dim_v) {
  if (gpu_attends(dim_qk, dim_v)) return 0;
  constexpr std::int64_t kAbsurd = std::int64_t{1} << 60;  // more than any GPU has
  return static_cast<std::size_t>(product({4, n_rows, n_heads, n_keys}, kAbsurd));
}

std::size_t gpu_expand_bytes(const io::ModelConfig& c) {
  constexpr std::int64_t kMost = std::int64_t{128} << 20;
  const std::int64_t values = c.mla.qk_nope_dim + c.mla.qk_rope_dim + c.mla.v_head_dim;
  return static_cast<std::size_t>(product({2, c.n_heads, values, c.max_context}, kMost));
}

std::size_t gpu_attention_bytes(const io::ModelConfig& c, std::int64_t chunk,
                                std::int64_t context) {
  const auto scores = [&](std::int64_t dim_qk, std::int64_t dim_v) {
    return gpu_score_bytes(chunk, c.n_heads, context, dim_qk, dim_v);
  };
  const std::int64_t rank = c.mla.kv_lora_rank, rope = c.mla.qk_rope_dim;
  if (rank == 0) return scores(c.head_dim, c.head_dim);
  return std::max(scores(rank + rope, rank), scores(c.mla.qk_nope_dim + rope, c.mla.v_head_dim)) +
         gpu_expand_bytes(c);
}

std::size_t gpu_widened_bytes(const io::ModelConfig& c, tensor::Format format,
                              std::int64_t n_tokens) {
  const bool latent = c.mla.kv_lora_rank > 0;
  if (tensor::gpu_cache_format(format) == tensor::Format::kBF16) return 0;
  if (!latent && !gpu_attends(c.head_dim, c.head_dim)) return 0;
  const std::int64_t values =
      latent ? c.mla.kv_lora_rank + c.mla.qk_rope_dim : 2 * c.n_kv_heads * c.head_dim;
  const std::int64_t n_pages = (n_tokens + tensor::kKvPageLen - 1) / tensor::kKvPageLen;
  return static_cast<std::size_t>(n_pages * tensor::kKvPageLen * values) * 2;
}

}  // namespace kt::operators
