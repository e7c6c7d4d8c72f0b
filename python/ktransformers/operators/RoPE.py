"""Rotary embeddings. The native attention has its own tables; what other attention modules get comes from the
original module, which computes the same angles."""
from ktransformers.operators.base_operator import NativeOperator


class KRotaryEmbedding(NativeOperator):
    """With the scaling of the model's configuration."""


class RotaryEmbedding(KRotaryEmbedding):
    """Without scaling."""


class RotaryEmbeddingV2(KRotaryEmbedding):
    """Without scaling, or linear or Llama-3 scaling."""


class RotaryEmbeddingV3(KRotaryEmbedding):
    """Of DeepSeek-V3 without scaling."""


class RotaryEmbeddingV4(KRotaryEmbedding):
    """Of DeepSeek-V3 without scaling."""


class YarnRotaryEmbedding(KRotaryEmbedding):
    """Of DeepSeek-V2 and -V3 with yarn scaling."""


class YarnRotaryEmbeddingV3(KRotaryEmbedding):
    """Of DeepSeek-V3 with yarn scaling."""


class KQwen3MoeRotaryEmbedding(KRotaryEmbedding):
    """Of Qwen3-MoE."""
