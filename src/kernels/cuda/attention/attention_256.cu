#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_256(const AttentionArgs& args, Stream stream) {
  return launch_grouped<256, 256>(args, stream);
}

}  // namespace kt::kernels::cuda
