#include "kernels/cuda/attention/heads.cuh"

namespace kt::kernels::cuda {
namespace {

constexpr int kHeadWarps = 4;

/// One warp for each head of a row: those of q, of k, of v.
template <int kPairs>
__global__ void __launch_bounds__(kHeadWarps* kWarp) heads_kernel(HeadsArgs args) {
  start_next();
  await_previous();
  const SequenceItem item = args.items[blockIdx.y];
  const int n_heads = static_cast<int>(args.n_heads), n_kv = static_cast<int>(args.n_kv_heads);
  const int d = static_cast<int>(args.d), token = blockIdx.x;
  int head = blockIdx.z * kHeadWarps + threadIdx.x / kWarp;
  if (token >= item.n_rows || head >= n_heads + 2 * n_kv) return;
  const std::int64_t row = item.row_begin + token, angles = row * (d / 2);
  if (head < n_heads) {
    auto* q = static_cast<std::uint16_t*>(args.q) + row * args.q_stride + head * d;
    prepare_head<kPairs>(q, bf16_elements(q), d, args.q_weight, args.eps, args.cos + angles,
                         args.sin + angles);
    return;
  }
  head -= n_heads;
  const bool is_v = head >= n_kv;
  if (is_v) head -= n_kv;
  const auto* from = static_cast<const std::uint16_t*>(is_v ? args.v : args.k) +
                     row * (is_v ? args.v_stride : args.k_stride) + head * d;
  const CacheElements to = cache_head(is_v ? args.v_cache : args.k_cache, args.table, item.table,
                                      item.position + token, head);
  prepare_head<kPairs>(from, to, d, is_v ? nullptr : args.k_weight, args.eps,
                       is_v ? nullptr : args.cos + angles, args.sin + angles);
}

}  // namespace

Status prepare_heads(const HeadsArgs& args, Stream stream) {
  if (args.d > kMaxHeadDim) return Status::kUnsupported;
  if (args.n_items <= 0 || args.max_item_rows <= 0 || args.d <= 0 || args.d % 2 != 0 ||
      args.n_heads <= 0 || args.n_kv_heads <= 0) {
    return Status::kBadArgument;
  }
  const std::int64_t heads = args.n_heads + 2 * args.n_kv_heads;
  const dim3 grid(static_cast<unsigned>(args.max_item_rows), static_cast<unsigned>(args.n_items),
                  static_cast<unsigned>(div_up<std::int64_t>(heads, kHeadWarps)));
  void (*kernel)(HeadsArgs) = args.d <= 128 ? heads_kernel<2> : heads_kernel<8>;
  return launch(kernel, grid, kHeadWarps * kWarp, 0, stream, args);
}

}  // namespace kt::kernels::cuda
