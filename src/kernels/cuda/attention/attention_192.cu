#include "kernels/cuda/attention/attention.cuh"

namespace kt::kernels::cuda {

Status attention_192(const AttentionArgs& args, Stream stream) {
  return launch_grouped<192, 128>(args, stream);
}

}  // namespace kt::kernels::cuda
