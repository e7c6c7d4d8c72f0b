"""The cache that Transformers sees, over the engine's pages."""
import torch
from transformers.cache_utils import Cache, DynamicLayer

from ktransformers.errors import UsageError


class EngineCache(Cache):
    """Keys and values of an injected model: sequences of the engine, one for each row of the batch.

    Padding takes no place there: `columns` counts the positions that forward() has seen, the sequences hold the real
    tokens among them. Layers whose attention is not ours keep their keys and values as tensors in `layers`, as
    DynamicCache does.
    """

    def __init__(self, native, n_tokens: int = 0):
        super().__init__(layers=[DynamicLayer() for _ in range(native.n_layers)])
        self.native = native
        self.sequences = native.make_sequences(n_tokens)
        self.columns = 0
        self.mask: torch.Tensor | None = None  # bool [batch, columns], true for real tokens; None: all are
        self.rows = None                       # those of the forward() that is running module by module
        self.row_index: torch.Tensor | None = None
        self.filled_by: str | None = None      # "model" or "modules": who may go on

    # What forward() does with it.

    def begin(self, batch: int, length: int, mask: torch.Tensor | None, by: str) -> torch.Tensor | None:
        """Starts a forward() of `length` columns; gives its own part of the mask, or None when all tokens are real."""
        if self.filled_by not in (None, by):
            raise UsageError("it was filled by a model that ran in another way (a hook or a module of your own came or "
                             "went): start with a new cache", "cache")
        if len(self.sequences) == 0:
            self.sequences.select([-1] * batch)
        if len(self.sequences) != batch:
            raise UsageError(f"it holds {len(self.sequences)} sequences, the batch has {batch}", "cache")
        if mask is not None:
            if mask.shape != (batch, self.columns + length):
                raise UsageError(f"its shape is {tuple(mask.shape)}, wanted {(batch, self.columns + length)}: one "
                                 "entry for each cached and new token", "attention_mask")
            past = mask[:, :self.columns]
            same = past.all() if self.mask is None else torch.equal(past, self.mask)
            if not same:
                raise UsageError("it hides or shows tokens that are already cached", "attention_mask")
        self.filled_by = by
        return None if mask is None or bool(mask.all()) else mask[:, self.columns:]

    def end(self, batch: int, length: int, part: torch.Tensor | None) -> None:
        """The columns count from now on."""
        if part is not None or self.mask is not None:
            ones = torch.ones((batch, max(self.columns, length)), dtype=torch.bool)
            past = ones[:, :self.columns] if self.mask is None else self.mask
            self.mask = torch.cat([past, ones[:, :length] if part is None else part], dim=1)
        self.columns += length

    def abandon(self) -> None:
        """Forgets what a forward() that failed has left."""
        if self.columns == 0:
            self.reset()
            return
        for i in range(len(self.sequences)):
            self.sequences.truncate(i, self.columns if self.mask is None else int(self.mask[i].sum()))
        for layer in self.layers:
            layer.crop(min(0, self.columns - layer.get_seq_length()))

    # What Transformers does with it.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.columns + query_length, 0

    @property
    def batch_size(self) -> int:
        return len(self.sequences) or -1

    @property
    def is_initialized(self) -> bool:
        return len(self.sequences) > 0

    @property
    def is_compileable(self) -> bool:
        return False

    def _select(self, parents: list[int]) -> None:
        self.sequences.select(parents)
        if self.mask is not None:
            self.mask = self.mask[parents]

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._select(beam_idx.tolist())
        super().reorder_cache(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._select(torch.arange(len(self.sequences))[indices.cpu()].tolist())
        super().batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select([i for i in range(len(self.sequences)) for _ in range(repeats)])
        super().batch_repeat_interleave(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        n = min(abs(tokens_to_remove), self.columns)
        super().crop(tokens_to_remove)
        if n == 0:
            return
        for i in range(len(self.sequences)):
            real = n if self.mask is None else int(self.mask[i, self.columns - n:].sum())
            self.sequences.truncate(i, self.sequences.length(i) - real)
        self.columns -= n
        if self.mask is not None:
            self.mask = self.mask[:, :self.columns]

    def reset(self) -> None:
        self.sequences.select([])
        self.columns, self.mask, self.filled_by = 0, None, None
        super().reset()
