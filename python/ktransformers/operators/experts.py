"""Routed experts, and the sparse blocks around them."""
import torch

from ktransformers.operators.base_operator import NativeOperator, rows_of


class KExpertsBase(NativeOperator):
    """All routed experts of a layer; keyword arguments as in docs/rules.md."""

    def forward(self, hidden_states: torch.Tensor, expert_ids: torch.Tensor, weights: torch.Tensor,
                *_) -> torch.Tensor:
        """Σ weight · expert(x): hidden_states [n_tokens, d_model], expert_ids and weights [n_tokens, n_active] →
        [n_tokens, d_model]."""
        rows = rows_of(hidden_states)
        out = torch.empty_like(rows)
        ids = expert_ids.detach().to(torch.int64).reshape(-1).contiguous()
        self.gguf_loader.native.run_experts(self.native, rows, ids, rows_of(weights), out)
        return out.view(hidden_states.shape).to(hidden_states.dtype)


class KExpertsCPU(KExpertsBase):
    """On the CPU, as stored or requantised as `backend` says."""


class KExpertsGPU(KExpertsBase):
    """As stored; on GPUs."""


class KExpertsTorch(KExpertsBase):
    """Dense: quantised weights become float32 at load."""


class KExpertsMarlin(KExpertsBase):
    """Weights in groups of 4 bits, made at load; on GPUs."""


class KTransformersExperts(KExpertsBase):
    """Stands for the operators that its generate_op and prefill_op name."""


class KTransformersExpertsV2(KTransformersExperts):
    """KTransformersExperts as serving rule files name it."""


class KSparseMoE(NativeOperator):
    """Router, routed and shared experts of a layer. Runs natively, or as the original module does when something of
    its own was put below it."""

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """[..., d_model] → [..., d_model]"""
        if not self._children_are_native():
            return self.orig_module.forward(hidden_states, *args, **kwargs)
        rows = rows_of(hidden_states)
        out = torch.empty_like(rows)
        self.gguf_loader.native.run_module(self.native, rows, out)
        return out.view(hidden_states.shape).to(hidden_states.dtype)


class KDeepseekV2MoE(KSparseMoE):
    """Of DeepSeek-V2."""


class KDeepseekV3MoE(KSparseMoE):
    """Of DeepSeek-V3 and Kimi-K2."""


class KDeepseekV3MoEV2(KDeepseekV3MoE):
    """KDeepseekV3MoE as serving rule files name it."""


class KQwen2MoeSparseMoeBlock(KSparseMoE):
    """Of Qwen2-MoE and Qwen3-MoE."""


class KQwen2MoeSparseMoeBlockV2(KQwen2MoeSparseMoeBlock):
    """KQwen2MoeSparseMoeBlock as serving rule files name it."""


class KQwen3MoeSparseMoeBlockV2(KSparseMoE):
    """Of Qwen3-MoE."""


class KMistralSparseMoEBlock(KSparseMoE):
    """Of Mixtral."""
