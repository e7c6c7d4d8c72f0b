#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_256(const AttentionArgs& args, const HeadsArgs* heads, Stream stream) {
  return launch_grouped<256, 256>(args, heads, stream);
}

}  // namespace kt::kernels::cuda
