"""Class names of the original's model files, for rules that match them: the classes of Transformers, and names that
Transformers has no more."""
import importlib
import sys

from torch import nn


class _Also(type):
    """A class whose instances are those of `original`, under a condition."""

    def __instancecheck__(cls, instance) -> bool:
        return isinstance(instance, cls.original) and cls.condition(instance)

    def __subclasscheck__(cls, other) -> bool:
        return other is cls or issubclass(other, cls.original)


def also(name: str, original: type, condition=lambda module: True) -> type:
    return _Also(name, (nn.Module,), {"original": original, "condition": staticmethod(condition)})


def has_rope(kind: str):
    """Whether a rotary embedding scales in this way ("yarn", "linear")."""
    return lambda module: getattr(module, "rope_type", "default") == kind


def publish(module_name: str, package: str, prefix: str, renamed: dict[str, str]) -> None:
    """Fills a module of this package with the classes of a Transformers model, and with names that were renamed:
    new name of the original → suffix in Transformers."""
    there = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
    names = {n: c for n, c in vars(there).items() if isinstance(c, type) and n.startswith(prefix)}
    rotary, attention = names[prefix + "RotaryEmbedding"], names[prefix + "Attention"]
    names[prefix + "YarnRotaryEmbedding"] = also(prefix + "YarnRotaryEmbedding", rotary, has_rope("yarn"))
    names[prefix + "LinearScalingRotaryEmbedding"] = also(prefix + "LinearScalingRotaryEmbedding", rotary,
                                                          has_rope("linear"))
    names[prefix + "DynamicNTKScalingRotaryEmbedding"] = also(prefix + "DynamicNTKScalingRotaryEmbedding", rotary,
                                                              has_rope("dynamic"))
    for suffix in ("FlashAttention2", "SdpaAttention"):
        names[prefix + suffix] = attention
    for name, suffix in renamed.items():
        names[name] = names[prefix + suffix]
    here = sys.modules[module_name]
    for name, value in names.items():
        setattr(here, name, value)
    here.__all__ = sorted(names)
