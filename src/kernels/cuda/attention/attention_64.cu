#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_64(const AttentionArgs& args, const HeadsArgs* heads, Stream stream) {
  return launch_grouped<64, 64>(args, heads, stream);
}

}  // namespace kt::kernels::cuda
