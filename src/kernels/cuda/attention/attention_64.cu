#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_64(const AttentionArgs& args, Stream stream) {
  return launch_grouped<64, 64>(args, stream);
}

}  // namespace kt::kernels::cuda
