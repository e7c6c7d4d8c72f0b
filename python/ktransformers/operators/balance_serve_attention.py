"""Attention under the names that serving rule files use."""
from ktransformers.operators.attention import KGroupedQueryAttention, KLatentAttention


class flashinfer_attn(KLatentAttention):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""


class deepseek_torch_attn(KLatentAttention):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""


class KQwen2MoeAttention(KGroupedQueryAttention):
    """Of Qwen2-MoE."""


class KQwen3MoeAttention(KGroupedQueryAttention):
    """Of Qwen3-MoE."""
