"""The rest of the tree: what rules set there concerns the model as a whole (per_layer_prefill_intput_threshold,
transfer_map); the modules below do the work."""
from ktransformers.operators.base_operator import NativeOperator


class KDecoderModel(NativeOperator):
    """Embedding, layers and final norm."""

    def load(self) -> None:
        """It has no weights of its own; the modules below load theirs."""

    def unload(self) -> None:
        """As load()."""


class KDeepseekV2Model(KDecoderModel):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""


class KQwen2MoeModel(KDecoderModel):
    """Of Qwen2-MoE and Qwen3-MoE."""


class KLlamaModel(KDecoderModel):
    """Of Llama."""


class KDecoderLayer(KDecoderModel):
    """One layer."""


class KCausalLM(KDecoderModel):
    """The model with its head."""
