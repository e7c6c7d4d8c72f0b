"""What would run where, in how much memory and how fast, from a model's headers alone."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ktransformers import _native
from ktransformers.errors import UsageError

_RANGES = {"context": (0, 2 ** 62), "threads": (0, 1024), "chunk_size": (0, 16384), "defer_experts": (0, 64),
           "gpus": (0, 8), "emulate_gpus": (0, 64), "emulate_nodes": (0, 64)}


def set_options(target: object, values: Mapping[str, Any]) -> None:
    """Sets attributes of a native object, with a message that names a value of the wrong type or out of range."""
    for name, value in values.items():
        wanted = type(getattr(target, name))
        try:
            setattr(target, name, dict(value) if wanted is dict else value)
        except UsageError:
            raise
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{name}: {value!r} is not {_KINDS.get(wanted, wanted.__name__)}") from None
        low, high = _RANGES.get(name, (None, None)) if wanted is int else (None, None)
        if low is not None and not low <= value <= high:
            raise UsageError(f"{value} is not a number from {low} to {high}", name)


_KINDS = {int: "a whole number that fits", float: "a number", str: "text", bool: "True or False",
          list: "a list of text", dict: "a mapping of token ids to numbers"}


@dataclass(frozen=True)
class DevicePlan:
    """Memory of one device, bytes."""
    name: str
    """"cpu", "cuda:0"."""
    capacity: int
    weights: dict[str, int]
    """By kind of module."""
    cache: int
    workspace: int
    margin: int
    """Kept free for what is not counted."""
    free: int


@dataclass(frozen=True)
class Speed:
    """Predicted speed; rates in tokens per second, limits name the resource that sets them."""
    load_seconds: float
    load_limit: str
    prefill_tokens: int
    """Of the prompt that `prefill` is for."""
    prefill: float
    prefill_limit: str
    decode_position: int
    """Tokens before the one that `decode` is for."""
    decode: float
    decode_limit: str
    decode_full_context: float
    """With the promised context full."""


@dataclass(frozen=True)
class PlannedModule:
    """One module, and what it becomes."""
    path: str
    kind: str
    operator: str
    device: str
    format: str
    bytes: int
    """Of memory."""
    file_bytes: int
    reason: str
    gpu_experts: int
    """Experts of a module on the CPU that a GPU holds too."""


@dataclass(frozen=True)
class Plan:
    """What `kt plan --json` prints. Sizes in bytes, context in tokens."""
    model: str
    architecture: str
    type: str
    """File type planned for, when only a config.json is there; else empty."""
    context: int
    largest_context: int
    weight_bytes: int
    file_bytes: int
    cache_bytes_per_token: int
    cache_bytes: int
    devices: list[DevicePlan]
    """The CPU first."""
    peak_bytes: int
    """Of the CPU's memory when everything is in use."""
    speed: Speed | None
    rates_measured: bool
    """Whether `speed` comes from rates measured on this CPU."""
    hints: list[str]
    warnings: list[str]
    """About the rule file."""
    modules: list[PlannedModule] = field(repr=False)
    rules: str = field(repr=False)
    """The plan as the text of a rule file."""
    json: str = field(repr=False, compare=False)
    """The text that `kt plan --json` prints."""

    def write_rules(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as a rule file, to be changed and given to Engine."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.rules)


def plan(model: str | os.PathLike[str], *, gpus: int | Sequence[str] | None = None, gpu_memory: str = "",
         gpu_plugin: str | os.PathLike[str] | None = None, ram: str = "", pcie: str = "", disk: str = "",
         cpu_flops: str = "", format: str = "Q4_K_M", rules: str | os.PathLike[str] | None = None, context: int = 0,
         threads: int = 0, act: str = "q16", kv: str = "f16", chunk_size: int = 0,
         stream_experts: str = "auto", expert_cache: str = "auto",
         plugins: Sequence[str | os.PathLike[str]] = (), device: str | None = None,
         remeasure: bool = False, held: int = 0, gpu_bytes: Sequence[int] = ()) -> Plan:
    """Plans a model without loading it: for this machine, or for one described by hand.

        ktransformers.plan("config.json", gpus=["24GiB@1000GB/s"], ram="512GiB@300GB/s", cpu_flops="10TFLOPS")

    model: as Engine, or the config.json of a model that is not here, planned as file type `format`.
    gpus: so many of this machine's at most, None: all; or a description of each, memory@bandwidth or
    memory@bandwidth@operations. ram: memory, or memory@bandwidth of another machine, which has the GPUs that are
    described; empty: what is free here. pcie, disk: bytes per second ("25GB/s"). rules: explain this rule file
    instead of planning. held: bytes that count as free although this process has them; gpu_bytes: the same, what
    may be used of each GPU. The rest as Engine.

    Measures this CPU (seconds, once; kept in the user's cache) unless ram has a bandwidth, and GPUs that are not
    described. Raises NoMemoryError with a table when it does not fit, UsageError, NotFoundError, BadFileError,
    UnsupportedError.
    """
    request = _native.PlanRequest()
    which: dict[str, Any] = {}
    if gpus is not None:
        which = {"gpus": gpus} if isinstance(gpus, int) else {"given_gpus": list(gpus)}
    set_options(request, {
        "model": os.fspath(model), **which, "gpu_memory": gpu_memory, "gpu_plugin": os.fspath(gpu_plugin or ""),
        "gpu_bytes": list(gpu_bytes), "ram": ram, "pcie": pcie, "disk": disk, "cpu_flops": cpu_flops,
        "format": format, "rules": os.fspath(rules or ""), "context": context, "threads": threads, "act": act,
        "kv": kv, "chunk_size": chunk_size, "stream_experts": stream_experts,
        "expert_cache": expert_cache,
        "plugins": [os.fspath(path) for path in plugins],
        "device": device or "", "remeasure": remeasure, "held": held})
    text, rule_text = _native.plan(request)
    values: dict[str, Any] = json.loads(text)
    speed = values.pop("speed", None)
    modules = values.pop("modules")
    devices = [DevicePlan(**one) for one in values.pop("devices")]
    for module in modules:
        module["kind"] = module.pop("class")
    return Plan(**values, devices=devices, speed=Speed(**speed) if speed else None,
                modules=[PlannedModule(**module) for module in modules], rules=rule_text, json=text)
