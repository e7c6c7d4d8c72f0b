#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_192(const AttentionArgs& args, const HeadsArgs* heads, Stream stream) {
  return launch_grouped<192, 128>(args, heads, stream);
}

}  // namespace kt::kernels::cuda
