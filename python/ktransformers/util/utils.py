"""Helpers of the original's ktransformers.util.utils."""
import enum

import torch
from torch import nn


class InferenceState(enum.IntEnum):
    UNLOAD = 0
    PREFILL = 1
    GENERATE = 2
    RESTORE = 3


def get_device(path: str, device_map: dict) -> str:
    """Where a module generates: "cuda" when the map does not say."""
    return device_map.get(path, {}).get("generate_device", "cuda")


def get_all_used_cuda_device(device_map: dict) -> list[str]:
    """Devices of a map but the CPU, sorted."""
    devices = {kwargs.get(key) for kwargs in device_map.values() for key in ("generate_device", "prefill_device")}
    return sorted(d for d in devices if d and d != "cpu")


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def set_param(module: nn.Module, name: str, value: torch.Tensor) -> None:
    module._parameters[name] = nn.Parameter(value, requires_grad=False)


def load_weights(module: nn.Module, gguf_loader, prefix: str = "", device: str = "cpu") -> None:
    """Reads the parameters and buffers of a module and of those below it; operators load themselves."""
    from ktransformers.operators.base_operator import BaseInjectedModule
    device = "cpu" if device.startswith("cuda") and not torch.cuda.is_available() else device
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            value = gguf_loader.read_parameter(prefix + name, parameter.shape)
            set_param(module, name, value.to(device=device, dtype=parameter.dtype))
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta and gguf_loader.has_parameter(prefix + name, buffer.shape):
            module._buffers[name] = gguf_loader.read_parameter(prefix + name, buffer.shape).to(device, buffer.dtype)
    for name, child in module._modules.items():
        if isinstance(child, BaseInjectedModule):
            child.load()
        elif child is not None:
            load_weights(child, gguf_loader, prefix + name + ".", device)


def tf_logits_warper(generation_config):
    """The warpers of Transformers that sampling needs (temperature, top_k, top_p, min_p, typical, epsilon, eta)."""
    from transformers import generation as g
    from transformers.generation.logits_process import LogitsProcessorList
    c = generation_config
    wanted = [
        (g.TemperatureLogitsWarper, c.temperature, c.temperature not in (None, 0.0, 1.0)),
        (g.TopKLogitsWarper, c.top_k, bool(c.top_k)),
        (g.TopPLogitsWarper, c.top_p, c.top_p is not None and c.top_p < 1.0),
        (g.MinPLogitsWarper, c.min_p, c.min_p is not None),
        (g.TypicalLogitsWarper, c.typical_p, c.typical_p is not None and c.typical_p < 1.0),
        (g.EpsilonLogitsWarper, c.epsilon_cutoff, bool(c.epsilon_cutoff)),
        (g.EtaLogitsWarper, c.eta_cutoff, bool(c.eta_cutoff)),
    ]
    warpers = LogitsProcessorList()
    for warper, value, used in wanted:
        if used:
            warpers.append(warper(value))
    return warpers


def prefill_and_generate(model, tokenizer, inputs, max_new_tokens=10000, use_cuda_graph=True, mode="normal",
                         force_think=False, chunk_size=16384, use_flashinfer_mla=False, num_heads=None,
                         head_dim_ckv=None, head_dim_kpe=None, q_head_dim=None, **_) -> list[int]:
    """One prompt [1, L] through an injected model: prints the text as it comes and a speed report of six lines.

    Sampling is as model.generation_config says. Returns the generated ids, the one that ended the text left out.
    The arguments behind force_think belong to GPUs and have no effect; prompts run in the chunks that
    optimize_and_load_gguf was given. Raises UnsupportedError for mode="long_context".
    """
    from ktransformers.util.generating import generate_one
    return generate_one(model, tokenizer, inputs, max_new_tokens, mode, force_think)


def get_compute_capability() -> int | None:
    """Smallest major compute capability of the GPUs; None without one."""
    if not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_capability(i)[0] for i in range(torch.cuda.device_count()))


def sync_all_device(devices: list[str]) -> None:
    for device in devices:
        if device.startswith("cuda") and torch.cuda.is_available():
            torch.cuda.synchronize(device)


def get_free_ports(n: int, exclude: list[int]) -> list[int]:
    """n TCP ports of this machine that nothing listens on, none of `exclude`."""
    import socket
    sockets, ports = [], []
    try:
        while len(ports) < n:
            s = socket.socket()
            sockets.append(s)  # held until all are found, so that none comes twice
            s.bind(("127.0.0.1", 0))
            if s.getsockname()[1] not in exclude:
                ports.append(s.getsockname()[1])
    finally:
        for s in sockets:
            s.close()
    return ports
