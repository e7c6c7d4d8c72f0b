#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_mla(const AttentionArgs& args, const HeadsArgs*, Stream stream) {
  const std::int64_t rows = args.max_item_rows * args.n_heads;
  using Small = AttentionShape<576, 512, true, 1, 2, 32>;
  if (rows <= 16)
    return launch_fitting<AttentionShape<576, 512, true, 1, 4, 64>, Small>(args, stream);
  return launch_fitting<AttentionShape<576, 512, true, 4, 8, 32>, Small>(args, stream);
}

}  // namespace kt::kernels::cuda
