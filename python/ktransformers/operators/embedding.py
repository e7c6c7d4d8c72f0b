"""Token embeddings."""
import torch

from ktransformers.operators.base_operator import NativeOperator


class KEmbeddingCPU(NativeOperator):
    """Rows decoded from the file when they are asked for."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[...] → [..., d_model], in the type of the weights that the model was built with."""
        ids = input_ids.detach().to(torch.int64).reshape(-1).contiguous()
        dtype, width = self.weight.dtype, self.weight.shape[1]
        out = torch.empty((ids.shape[0], width), dtype=torch.float32)
        self.gguf_loader.native.run_embedding(self.native, ids, out)
        return out.view(*input_ids.shape, -1).to(dtype)
