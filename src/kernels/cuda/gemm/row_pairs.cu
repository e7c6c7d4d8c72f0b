#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {
namespace {

constexpr int kPairWarps = 16;

/// The first blocks are of the first format.
template <class A, class B>
__global__ void __launch_bounds__(kPairWarps* kWarp, 1)
    row_pair_kernel(const __grid_constant__ SkinnyArgs first, int first_most, int first_blocks,
                    const __grid_constant__ SkinnyArgs second, int second_most) {
  extern __shared__ __align__(16) Byte shared[];
  start_next();
  const int block = blockIdx.x;
  if (block < first_blocks) {
    multiply_row_block<A>(first, first_most, block, shared);
  } else {
    multiply_row_block<B>(second, second_most, block - first_blocks, shared);
  }
}

template <class T>
std::size_t pair_bytes(std::int64_t k, int most, int warps) {
  const std::int64_t k_tiles = div_up<std::int64_t>(k, T::kK);
  return table_bytes<T>() + row_bytes<T>(k_tiles) + row_sums_bytes(most, warps);
}

template <class A, class B>
Status launch_pair(const SkinnyArgs& first, const SkinnyArgs& second, const DeviceInfo& device,
                   Stream stream) {
  const SkinnyPlan a = plan_row<A>(first.row_tiles, first.k, device),
                   b = plan_row<B>(second.row_tiles, second.k, device);
  int a_most = a.most, b_most = b.most;
  if (row_blocks(first, a_most) + row_blocks(second, b_most) > device.n_sms) {
    // Together as many for each multiprocessor.
    const int share = div_up(first.row_tiles + second.row_tiles, device.n_sms);
    if (share > a_most) a_most = share;
    if (share > b_most) b_most = share;
  }
  int warps = a.warps > b.warps ? a.warps : b.warps;
  if (warps > kPairWarps) warps = kPairWarps;
  const std::size_t a_bytes = pair_bytes<A>(first.k, a_most, warps),
                    b_bytes = pair_bytes<B>(second.k, b_most, warps);
  const std::size_t shared = a_bytes > b_bytes ? a_bytes : b_bytes;
  if (shared > device.shared_bytes) return Status::kUnsupported;
  const Status status = allow_shared(row_pair_kernel<A, B>, shared);
  if (status != Status::kOk) return status;
  const int a_blocks = row_blocks(first, a_most), b_blocks = row_blocks(second, b_most);
  return launch(row_pair_kernel<A, B>, static_cast<unsigned>(a_blocks + b_blocks),
                static_cast<unsigned>(warps * kWarp), shared, stream, first, a_most, a_blocks,
                second, b_most);
}

}  // namespace

RowPair find_row_pair(formats::Format first, formats::Format second) {
  using formats::Format;
  if (second == Format::kQ6_K && first == Format::kQ4_K) return &launch_pair<TileQ4_K, TileQ6_K>;
  if (second == Format::kQ6_K && first == Format::kQ5_K) return &launch_pair<TileQ5_K, TileQ6_K>;
  return nullptr;
}

}  // namespace kt::kernels::cuda
