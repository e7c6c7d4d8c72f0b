"""What every injectable operator is: a module in the place of another one."""
from typing import Any

import torch
from torch import nn

from ktransformers.injection.weights import WeightLoader


class BaseInjectedModule(nn.Module):
    """Stands at `key` of a model in place of `orig_module`, whose children and parameters it shares: attributes that
    it lacks are those of the original, and what is set on it under such a name is set there.

    A subclass takes its own keyword arguments from the rule, and overrides forward(), load(), unload() or
    set_inference_mode() where it differs.
    """

    def __init__(self, key: str, gguf_loader: WeightLoader, config: Any, orig_module: nn.Module,
                 prefill_device: str = "cuda", generate_device: str = "cuda", **kwargs):
        super().__init__()
        own = object.__setattr__
        own(self, "key", key)
        own(self, "gguf_loader", gguf_loader)
        own(self, "config", config)
        own(self, "orig_module", orig_module)
        own(self, "prefill_device", prefill_device)
        own(self, "generate_device", generate_device)
        own(self, "device", generate_device)
        # The same dictionaries: a child replaced in one is replaced in both.
        for name in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            own(self, name, orig_module.__dict__[name])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("orig_module")
            if original is None:
                raise
            return getattr(original, name)

    def __setattr__(self, name: str, value: Any) -> None:
        original = self.__dict__.get("orig_module")
        if original is not None and name not in self.__dict__ and not hasattr(type(self), name) and \
                hasattr(original, name):
            setattr(original, name, value)
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> "BaseInjectedModule":
        self.orig_module.training = mode  # its forward() may run: no dropout there
        return super().train(mode)

    def forward(self, *args, **kwargs):
        return self.orig_module.forward(*args, **kwargs)

    def load(self) -> None:
        """Reads this module's own parameters and those of its children that are no operators."""
        from ktransformers.util.utils import load_weights
        load_weights(self.orig_module, self.gguf_loader, self.key + "." if self.key else "", self.generate_device)

    def unload(self) -> None:
        """Gives the weights back."""

    def set_inference_mode(self, mode) -> None:
        """Changes between prefill and generate operators (util.utils.InferenceState); the native engine does it by
        itself when the rules ask for layer-wise prefill."""


class NativeOperator(BaseInjectedModule):
    """A module whose work is done by the operator of the same name in C++.

    `native` is that operator (path, op, kind, kernel, weight_bytes). Alone, forward() runs it on the rows it is
    given, in float32; when the whole model is native, the model runs without coming here.
    """
    _members = None  # root.Members while all modules below are native

    def attach(self, module, node_path: str) -> None:
        object.__setattr__(self, "native", module)
        object.__setattr__(self, "native_path", node_path)

    def load(self) -> None:
        self.gguf_loader.native.load([self.native_path])

    def unload(self) -> None:
        self.gguf_loader.native.unload(self.native_path)

    def remember_children(self, are_native: bool) -> None:
        """From now on, a module below that is replaced or gets a hook is noticed."""
        from ktransformers.injection.root import Members
        object.__setattr__(self, "_members", Members(self) if are_native else None)

    def _children_are_native(self) -> bool:
        """Whether nothing below was replaced by somebody else's module, or is watched by a hook."""
        return self._members is not None and not self._members.changed()


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """[..., d] → contiguous float32 rows [n, d], without gradient; a copy only where the type or layout differs."""
    return x.detach().reshape(-1, x.shape[-1]).to(torch.float32).contiguous()
