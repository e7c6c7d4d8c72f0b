"""Routers: which experts a token goes to."""
import torch

from ktransformers.operators.base_operator import NativeOperator, rows_of


class KMoEGate(NativeOperator):
    def route(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[n_tokens, d_model] → (expert ids int64, weights float32), [n_tokens, n_active] each."""
        rows = rows_of(hidden_states)
        n_active = self.gguf_loader.native.n_active
        ids = torch.empty((rows.shape[0], n_active), dtype=torch.int32)
        weights = torch.empty((rows.shape[0], n_active), dtype=torch.float32)
        self.gguf_loader.native.run_gate(self.native, rows, ids, weights)
        return ids.to(torch.int64), weights

    def forward(self, hidden_states: torch.Tensor, *_):
        """(None, weights, ids), as the blocks of Transformers take them; the first would be the logits, which the
        native router does not keep."""
        ids, weights = self.route(hidden_states)
        return None, weights.to(hidden_states.dtype), ids


class KMoEGateQwen2Moe(KMoEGate):
    """Of Qwen2-MoE and Qwen3-MoE."""
