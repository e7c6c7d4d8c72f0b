#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_128(const AttentionArgs& args, const HeadsArgs* heads, Stream stream) {
  return launch_grouped<128, 128>(args, heads, stream);
}

}  // namespace kt::kernels::cuda
