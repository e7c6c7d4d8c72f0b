"""RMS norms: x / sqrt(mean(x²) + eps) · weight."""
import torch

from ktransformers.operators.base_operator import NativeOperator, rows_of


class KRMSNorm(NativeOperator):
    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None, *_):
        """[..., d] → [..., d]. With a residual: (norm(x + residual), x + residual)."""
        if residual is not None:
            x = x + residual
        rows = rows_of(x)
        out = torch.empty_like(rows)
        self.gguf_loader.native.run_module(self.native, rows, out)
        out = out.view(x.shape).to(x.dtype)
        return out if residual is None else (out, x)


class RMSNorm(KRMSNorm):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""


class DeepseekV3RMSNormTorch(KRMSNorm):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""


class KQwen2MoeRMSNorm(KRMSNorm):
    """Of Qwen2-MoE and Qwen3-MoE."""


class KQwen3MoeRMSNorm(KRMSNorm):
    """Of Qwen3-MoE."""
