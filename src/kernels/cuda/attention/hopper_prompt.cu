#include "kernels/cuda/attention/hopper_prompt.cuh"

namespace kt::kernels::cuda {

Status launch_prompt(const AttentionArgs& args, Stream stream) {
  if (args.dim_qk == 64) return launch_prompt_shape<PromptShape<64, 64, 128>>(args, stream);
  if (args.dim_qk == 128) return launch_prompt_shape<PromptShape<128, 128, 128>>(args, stream);
  if (args.dim_qk == 192) return launch_prompt_shape<PromptShape<192, 128, 128>>(args, stream);
  return launch_prompt_shape<PromptShape<256, 256, 64>>(args, stream);
}

}  // namespace kt::kernels::cuda
