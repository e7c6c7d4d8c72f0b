"""Linears: y = x · Wᵀ + b."""
import torch

from ktransformers.operators.base_operator import NativeOperator, rows_of


class KLinearBase(NativeOperator):
    """A linear of the native model; keyword arguments as in docs/rules.md."""

    def forward(self, x: torch.Tensor, *_) -> torch.Tensor:
        """x [..., n_in] → [..., n_out], in the type of x."""
        rows = rows_of(x)
        out = torch.empty((rows.shape[0], self.native.n_out), dtype=torch.float32)
        self.gguf_loader.native.run_module(self.native, rows, out)
        return out.view(*x.shape[:-1], -1).to(x.dtype)


class KLinearCPUInfer(KLinearBase):
    """Multiplies with the weights as the file stores them."""


class KLinearGPU(KLinearBase):
    """Multiplies with the weights as the file stores them; on GPUs."""


class KLinearTorch(KLinearBase):
    """Dense: quantised weights become float32 at load."""


class KLinearQ8(KLinearBase):
    """Weights in 8 bits with one scale a row, made at load."""


class KLinearMarlin(KLinearBase):
    """Weights in groups of `num_bits` bits, made at load; on GPUs."""


class VLinearMarlin(KLinearMarlin):
    """KLinearMarlin as serving rule files name it."""


class KLinearFP8(KLinearBase):
    """Block-FP8 weights as stored; on GPUs."""


class KTransformersLinear(KLinearBase):
    """Stands for the operators that its generate_op and prefill_op name."""
