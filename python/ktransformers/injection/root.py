"""forward() of an injected model.

When every module is an operator of ours, or a module of Transformers that the native model computes in the same way,
the native model runs in one go. A hook, a module of the user's own, or an output that only the modules can give
(hidden states, attentions) makes it run module by module instead, which is slower: that is said once.
"""
import functools
import inspect
import warnings
from typing import Any

import torch
from torch import nn

from ktransformers.errors import UnsupportedError, UsageError
from ktransformers.injection.cache import EngineCache
from ktransformers.injection.weights import WeightLoader

_FIRST_ROOM = 32768  # tokens that a cache of generate() has room for before it grows
# Transformers leaves its own hooks on modules once an output was asked for; they do nothing in other calls.
_IDLE_HOOKS = "transformers.utils.output_capturing"


def watched(state: dict[str, Any]) -> bool:
    """Whether something hangs on the forward() of the module that has these attributes."""
    if "forward" in state or state["_forward_pre_hooks"]:
        return True
    hooks = state["_forward_hooks"]
    return bool(hooks) and any(getattr(h, "__module__", None) != _IDLE_HOOKS for h in hooks.values())


class Members:
    """The modules below a root as they were after injection, to see quickly whether something changed."""

    def __init__(self, root: nn.Module):
        self._edges = [(parent._modules, name, child, child.__dict__) for parent in root.modules()
                       for name, child in parent._modules.items() if child is not None]
        self._counts = [(parent._modules, len(parent._modules)) for parent in root.modules()]

    def changed(self) -> str:
        """What was changed, for people; empty: nothing."""
        for siblings, name, child, state in self._edges:
            if siblings.get(name) is not child:
                return f"module '{name}' was replaced"
            if watched(state):
                return f"module '{name}' has a hook"
        for siblings, n in self._counts:
            if len(siblings) != n:
                return "modules were added or removed"
        return ""


class Injected:
    """What an injected model knows about itself (`model.injected`)."""

    def __init__(self, native, loader: WeightLoader, model: nn.Module, obstacle: str):
        self.native = native
        self.loader = loader
        self.obstacle = obstacle          # why it can never run in one go; empty: it can
        self.members = Members(model)
        self.told: set[str] = set()
        parameters = inspect.signature(type(model).forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"

    def why_not_whole(self, model: nn.Module, arguments: dict[str, Any]) -> str:
        """Why this call goes module by module; empty: it does not."""
        if self.obstacle:
            return self.obstacle
        if watched_globally():
            return "a global hook watches all modules"
        changed = self.members.changed()
        if changed:
            return changed
        for name in ("output_hidden_states", "output_attentions", "output_router_logits"):
            if arguments.get(name) or (arguments.get(name) is None and getattr(model.config, name, False)):
                return f"{name} is asked for"
        if arguments.get("inputs_embeds") is not None:
            return "inputs_embeds are given"
        return ""

    def tell(self, why: str) -> None:
        if why in self.told:
            return
        self.told.add(why)
        warnings.warn(f"ktransformers: the model runs module by module, not in one go: {why}", stacklevel=3)

    def new_cache(self, n_tokens: int = 0) -> EngineCache:
        """A cache for forward(); with room for n_tokens in all rows together before it grows."""
        return EngineCache(self.native, n_tokens)


def watched_globally() -> bool:
    from torch.nn.modules import module as torch_module
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def real_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """An attention mask of a batch as booleans [batch, columns]."""
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        raise UnsupportedError("only masks [batch, tokens] of zeros and ones can be followed", "attention_mask")
    return mask.bool().cpu()


def check_positions(position_ids: torch.Tensor | None, cache: EngineCache, part: torch.Tensor | None,
                    shape: tuple[int, int]) -> None:
    """Positions must count the real tokens of each row, as generate() gives them."""
    if position_ids is None:
        return
    batch, length = shape
    start = torch.tensor([[cache.sequences.length(i)] for i in range(batch)])
    if part is None:
        wanted = start + torch.arange(length)
        same = torch.equal(position_ids.cpu().expand(batch, length), wanted)
    else:
        wanted = start + part.cumsum(dim=1) - 1
        same = bool((position_ids.cpu().expand(batch, length) == wanted)[part].all())
    if not same:
        raise UnsupportedError("positions other than 0, 1, 2 … of each row's real tokens are not computed",
                               "position_ids")


def wanted_columns(logits_to_keep: int | torch.Tensor, length: int) -> list[int]:
    """Columns of the result, in the order of the new tokens."""
    if isinstance(logits_to_keep, int):
        return list(range(length))[-logits_to_keep:] if logits_to_keep > 0 else list(range(length))
    return torch.arange(length)[logits_to_keep.cpu()].tolist()


def run_whole(state: Injected, input_ids: torch.Tensor, cache: EngineCache, part: torch.Tensor | None,
              columns: list[int]) -> torch.Tensor:
    """Logits [batch, len(columns), vocabulary] in float32; zeros where a column is padding."""
    batch, length = input_ids.shape
    place = {column: i for i, column in enumerate(dict.fromkeys(columns))}
    logits = torch.empty((batch * len(place), state.native.vocab_size), dtype=torch.float32)
    if part is not None:
        logits.zero_()
    ids, counts, rows = [], [], []
    for b, row in enumerate(input_ids.tolist()):
        real = range(length) if part is None else part[b].nonzero().view(-1).tolist()
        ids += [row[c] for c in real]
        counts.append(len(real))
        rows += [b * len(place) + place[c] if c in place else -1 for c in real]
    state.native.run_model(cache.sequences, list(range(batch)), torch.tensor(ids, dtype=torch.int64), counts, rows,
                           logits)
    logits = logits.view(batch, len(place), -1)
    return logits if len(place) == len(columns) else logits[:, [place[c] for c in columns]]


def begin_rows(state: Injected, input_ids: torch.Tensor | None, cache: EngineCache, part: torch.Tensor | None,
               shape: tuple[int, int]) -> None:
    """Lists the rows for the attention operators of a model that runs module by module."""
    batch, length = shape
    real = torch.ones((batch, length), dtype=torch.bool) if part is None else part
    ids = torch.zeros((batch, length), dtype=torch.int64) if input_ids is None else input_ids
    cache.row_index = None if part is None else real.reshape(-1).nonzero().view(-1)
    cache.rows = state.native.append(cache.sequences, list(range(batch)), ids[real].cpu(), real.sum(dim=1).tolist())


class InjectedForward:
    """Mixed into the class of an injected model."""

    injected: Injected

    def new_cache(self, n_tokens: int = 0) -> EngineCache:
        """An empty cache for forward(), as generate() makes one."""
        return self.injected.new_cache(n_tokens)

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, generation_mode, batch_size,
                                      max_cache_length):
        name = self.injected.cache_name
        if model_kwargs.get(name) is None and generation_config.use_cache is not False:
            if generation_config.cache_implementation not in (None, "dynamic"):
                raise UnsupportedError(f"'{generation_config.cache_implementation}': the cache of an injected model "
                                       "is the engine's", "cache_implementation")
            rows = batch_size * max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
            model_kwargs[name] = self.injected.new_cache(min(rows * max_cache_length, _FIRST_ROOM))
        return super()._prepare_cache_for_generation(generation_config, model_kwargs, generation_mode, batch_size,
                                                     max_cache_length)


def _forward(model: nn.Module, original, arguments: dict[str, Any]) -> Any:
    state: Injected = model.injected
    name = state.cache_name
    if name != "past_key_values" and arguments.get("past_key_values") is not None:
        arguments[name] = arguments.pop("past_key_values")
    inputs = arguments.get("input_ids")
    embeds = arguments.get("inputs_embeds")
    if (inputs is None) == (embeds is None):
        raise UsageError("exactly one of input_ids and inputs_embeds is wanted", "input_ids")
    shape = tuple(inputs.shape if inputs is not None else embeds.shape[:2])
    use_cache = arguments.get("use_cache")
    use_cache = getattr(model.config, "use_cache", True) if use_cache is None else use_cache
    cache = arguments.get(name)
    given = cache is not None
    if given and not isinstance(cache, EngineCache):
        raise UnsupportedError(f"a {type(cache).__name__}: pass none, or one of model.new_cache()", name)
    cache = cache if given else state.new_cache(shape[0] * shape[1])
    why = state.why_not_whole(model, arguments)
    try:
        part = cache.begin(*shape, real_mask(arguments.get("attention_mask")), "modules" if why else "model")
        check_positions(arguments.get("position_ids"), cache, part, shape)
        if why:
            state.tell(why)
            result = _by_modules(model, original, arguments, cache, part, shape)
        else:
            columns = wanted_columns(arguments.get("logits_to_keep", 0), shape[1])
            result = _result(model, arguments, run_whole(state, inputs, cache, part, columns))
    except BaseException:
        cache.abandon()
        raise
    cache.end(*shape, part)
    result[name] = cache if use_cache or given else None
    if arguments.get("return_dict") is False:
        return result.to_tuple()
    return result


def _by_modules(model, original, arguments, cache, part, shape):
    state = model.injected
    begin_rows(state, arguments.get("input_ids"), cache, part, shape)
    try:
        with torch.no_grad():
            call = {k: v for k, v in arguments.items() if v is not None and k != "return_dict"}
            result = original(model, **call | {state.cache_name: cache, "use_cache": True})
    finally:
        rows, cache.rows = cache.rows, None
    state.native.commit(cache.sequences, rows)
    return result


def _result(model: nn.Module, arguments: dict[str, Any], logits: torch.Tensor):
    from transformers.modeling_outputs import CausalLMOutputWithPast
    loss = None
    if arguments.get("labels") is not None:
        loss = model.loss_function(logits=logits, labels=arguments["labels"], vocab_size=logits.shape[-1])
    return CausalLMOutputWithPast(loss=loss, logits=logits)


def make_injected(model: nn.Module, state: Injected) -> None:
    """Gives the model a forward() of its own; its class stays a subclass of what it was."""
    original = type(model).forward
    signature = inspect.signature(original)

    @functools.wraps(original)
    def forward(self, *args, **kwargs):
        bound = signature.bind_partial(self, *args, **kwargs).arguments
        bound.pop(next(iter(signature.parameters)))
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                bound.update(bound.pop(name, {}))
        return _forward(self, original, bound)

    cls = type(model)
    model.__class__ = type(cls.__name__, (InjectedForward, cls), {"forward": forward, "__module__": cls.__module__})
    object.__setattr__(model, "injected", state)
