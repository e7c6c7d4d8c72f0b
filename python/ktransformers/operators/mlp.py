"""Dense MLPs: down(silu(gate(x)) · up(x))."""
from ktransformers.operators.experts import KSparseMoE


class KGatedMLP(KSparseMoE):
    """Runs natively, or as the original module does when something of its own was put below it."""


class kDeepseekV3MLP(KGatedMLP):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""


class KQwen2MoeMLP(KGatedMLP):
    """Of Qwen2-MoE and Qwen3-MoE."""
