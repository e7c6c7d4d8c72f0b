"""Attention over the engine's cache."""
import torch

from ktransformers.errors import UsageError
from ktransformers.operators.base_operator import NativeOperator, rows_of


class KAttentionBase(NativeOperator):
    """Runs natively with its projections, norms and rotary embedding, or as the original module does when something
    of its own was put below it."""

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs):
        """[batch, tokens, d_model] → ([batch, tokens, d_model], None). The cache must be one of the model's
        (model.new_cache()); masks and positions are those that the model's forward() was given."""
        if not self._children_are_native():
            return self.orig_module.forward(hidden_states, *args, **kwargs)
        cache = kwargs.get("cache") or kwargs.get("past_key_values")
        rows = getattr(cache, "rows", None)
        if rows is None:
            raise UsageError("it runs inside the model's forward() only", self.key)
        x = rows_of(hidden_states)
        index = cache.row_index
        real = x if index is None else x[index]
        out = torch.empty_like(real)
        self.gguf_loader.native.run_attention(self.native, self.orig_module.layer_idx, cache.sequences, rows, real,
                                              out)
        if index is not None:
            out = torch.zeros_like(x).index_copy_(0, index, out)
        return out.view(hidden_states.shape).to(hidden_states.dtype), None


class KGroupedQueryAttention(KAttentionBase):
    """Grouped-query attention."""


class KLlamaAttention(KGroupedQueryAttention):
    """Of Llama."""


class KLatentAttention(KAttentionBase):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""


class KDeepseekV2Attention(KLatentAttention):
    """Of DeepSeek-V2, -V3 and Kimi-K2."""
