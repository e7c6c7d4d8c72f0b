"""The project's kernels as PyTorch ops, for other frameworks and for torch.compile.

Every function here is also an op of the namespace `torch.ops.ktransformers`, with a fake kernel, so that programs that
call it can be traced, compiled and exported. Tensors are all on the CPU, or all on one GPU (cuda_ops.py), and are used
in place; Python's lock is not held while an op computes. There are no gradients.

Weights have one of the formats of `formats()`: rows of blocks of a few values. `quantize` makes such rows, GGUF files
consist of them, and `pack` rearranges them for this CPU, once, for `linear`.

Activations are rounded as `act` says: "q16" keeps 15 bits (the default), "q8" 8 bits, "f32" all of them. On a GPU "q16"
and "q8" both mean bfloat16.
"""
import itertools
import threading
import weakref
from typing import NamedTuple, Optional

import torch

from ktransformers import _native, cuda_ops
from ktransformers.cuda_ops import matrix
from ktransformers.errors import UsageError

__all__ = ["Experts", "Format", "Packed", "attention", "dequantize", "formats", "get_threads", "linear", "mla_decode",
           "moe", "pack", "quantize", "rms_norm", "set_threads", "silu_mul"]

_NAMESPACE = "ktransformers"
PAGE_LEN: int = _native.PAGE_LEN
"""Tokens of a page of a paged cache."""


class Format(NamedTuple):
    """How a row of weights is stored: `block_len` values in `block_bytes` bytes, again and again."""
    name: str
    block_len: int
    block_bytes: int
    writable: bool

    def row_bytes(self, k: int) -> int:
        """Bytes of a row of k values."""
        return k // self.block_len * self.block_bytes


_FORMATS = {row[0]: Format(*row) for row in _native.formats()}


def formats() -> dict[str, Format]:
    """Every weight format by name."""
    return dict(_FORMATS)


def format_named(name: str) -> Format:
    """The format of this name, in any case. Raises UsageError."""
    found = _FORMATS.get(name.upper())
    if found is None:
        raise UsageError(f"'{name}' is none of {', '.join(_FORMATS)}", "format")
    return found


# Threads.

_lock = threading.Lock()
_shared: dict[tuple, weakref.ref] = {}  # (threads, nodes) -> Compute
_current = None


def compute(threads: int = 0, nodes: tuple[int, ...] = ()) -> _native.Compute:
    """So many threads on these NUMA nodes, shared by all who ask for the same; 0 and (): what `set_threads` said, or
    the physical cores of all nodes."""
    global _current
    with _lock:
        if not threads and not nodes and _current is not None:
            return _current
        key = (threads, tuple(nodes))
        known = _shared[key]() if key in _shared else None
        if known is None:
            known = _native.Compute(threads, list(nodes))
            _shared[key] = weakref.ref(known)
        if not threads and not nodes:
            _current = known
        return known


def set_threads(n: int) -> None:
    """Lets the ops use n threads from now on, 0: the physical cores. Layers of experts keep the threads that they
    were loaded with."""
    global _current
    with _lock:
        _current = _native.Compute(n, [])


def get_threads() -> int:
    """Threads that the ops use."""
    return compute().threads


# Registration.

_library = torch.library.Library(_NAMESPACE, "FRAGMENT")


def _register(schema: str, kernel, fake, cuda) -> None:
    """The op `schema` with kernels for the CPU, for tensors without data, and for GPUs."""
    name = schema.split("(")[0]
    if hasattr(torch.library, "custom_op"):
        op = torch.library.custom_op(f"{_NAMESPACE}::{name}", kernel, mutates_args=(), device_types="cpu",
                                     schema=schema[len(name):])
        op.register_fake(fake)
        op.register_kernel("cuda")(cuda)
        return
    _library.define(schema)  # PyTorch 2.3
    _library.impl(name, kernel, "CPU")
    _library.impl(name, cuda, "CUDA")
    torch.library.impl_abstract(f"{_NAMESPACE}::{name}", fake, lib=_library)


def _op(name: str):
    return getattr(getattr(torch.ops, _NAMESPACE), name)


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.detach().contiguous()


def _want_tensor(name: str, x, dims: int) -> None:
    if not isinstance(x, torch.Tensor):
        raise UsageError(f"is {type(x).__name__}; a tensor is wanted", name)
    if x.dim() < dims:
        raise UsageError(f"has shape {list(x.shape)}; at least {dims} dimension(s) are wanted", name)
    if x.device.type not in ("cpu", "cuda", "meta"):
        raise UsageError(f"is on device {x.device}; a tensor on the CPU or on a GPU (cuda) is wanted", name)


def _want_one_device(**tensors: Optional[torch.Tensor]) -> None:
    (first, device), *others = [(name, x.device) for name, x in tensors.items() if x is not None]
    for name, other in others:
        if other != device and "meta" not in (other.type, device.type):
            raise UsageError(f"is on {other}, {first} on {device}; all are wanted on one device", name)


# Formats.

def _quantize(x, format):
    rows = matrix(x)
    out = rows.new_empty((rows.shape[0], format_named(format).row_bytes(rows.shape[1])), dtype=torch.uint8)
    _native.quantize(compute(), rows, format, out)
    return out.view(*x.shape[:-1], out.shape[1])


def _quantize_fake(x, format):
    return x.new_empty((*x.shape[:-1], format_named(format).row_bytes(x.shape[-1])), dtype=torch.uint8)


def _dequantize(rows, format):
    flat = matrix(rows)
    f = format_named(format)
    out = flat.new_empty((flat.shape[0], flat.shape[1] // f.block_bytes * f.block_len), dtype=torch.float32)
    _native.dequantize(compute(), flat, format, out)
    return out.view(*rows.shape[:-1], out.shape[1])


def _dequantize_fake(rows, format):
    f = format_named(format)
    return rows.new_empty((*rows.shape[:-1], rows.shape[-1] // f.block_bytes * f.block_len), dtype=torch.float32)


def _dequantize_cuda(rows, format):
    return cuda_ops.dequantize(rows, format_named(format).name, _row_values(rows, format, "rows"))


def quantize(x: torch.Tensor, format: str) -> torch.Tensor:
    """Float rows [.., k] as rows of a format, uint8 [.., row_bytes]; k is a multiple of the format's block. On the CPU
    alone."""
    _want_tensor("x", x, 1)
    return _op("quantize")(x, format)


def dequantize(rows: torch.Tensor, format: str) -> torch.Tensor:
    """Rows of a format, uint8 [.., row_bytes], as float32 [.., k]."""
    _want_tensor("rows", rows, 1)
    return _op("dequantize")(rows, format)


# Linear.

class Packed(NamedTuple):
    """A weight [n, k] packed for the kernel of this CPU or of a GPU; `data` means nothing elsewhere."""
    data: torch.Tensor
    format: str
    n: int
    k: int
    act: str = "q16"

    @property
    def device(self) -> torch.device:
        """Whose kernel it is packed for."""
        return self.data.device

    def linear(self, x: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """x [.., k] times the weight, [.., n]."""
        return linear(x, self.data, self.format, self.n, bias, self.act)


def _row_values(rows, format, name="weight"):
    f, size = format_named(format), int(rows.shape[-1])
    if size < 1 or size % f.block_bytes:
        raise UsageError(f"has rows of {size} bytes; {f.name} has blocks of {f.block_bytes}", name)
    return size // f.block_bytes * f.block_len


def _pack(rows, format, act):
    flat = _flat(rows)
    k = _row_values(rows, format)
    out = flat.new_empty(_native.packed_bytes(compute(), format, flat.shape[0], k, act), dtype=torch.uint8)
    _native.pack(compute(), flat, format, act, out)
    return out


def _pack_cuda(rows, format, act):
    return cuda_ops.pack(rows, format_named(format).name, _row_values(rows, format))


def _pack_fake(rows, format, act):
    if rows.device.type == "cuda":
        size = cuda_ops.packed_bytes(format, int(rows.shape[0]), _row_values(rows, format))
        return rows.new_empty(size, dtype=torch.uint8)
    size = _native.packed_bytes(compute(), format, int(rows.shape[0]), _row_values(rows, format), act)
    return rows.new_empty(size, dtype=torch.uint8)


def _rows_of(x: torch.Tensor, format: Optional[str], name: str) -> tuple[torch.Tensor, str]:
    """Rows of bytes and their format; of floats in their own format the bytes, quantised ones come from the CPU."""
    if x.dtype == torch.uint8:
        if format is None:
            raise UsageError("rows of bytes need the name of their format", "format")
        return x, format_named(format).name
    own = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    if format is None and x.dtype not in own:
        raise UsageError(f"has elements of {x.dtype}; float32, float16, bfloat16 or uint8 are wanted", name)
    format = format_named(format or own[x.dtype]).name
    if x.device.type == "cuda" and own.get(x.dtype) == format:
        return x.contiguous().view(torch.uint8), format
    return _op("quantize")(x.cpu() if x.device.type == "cuda" else x, format), format


def pack(weight: torch.Tensor, format: Optional[str] = None, act: str = "q16",
         device: Optional[torch.device] = None) -> Packed:
    """Packs a weight for `linear` with activations of this kind.

    weight: rows of `format` as in files, uint8 [n, row_bytes], or floats [n, k] that become `format` (none: they stay
    what they are). device: where it will be used (none: where it is)."""
    _want_tensor("weight", weight, 2)
    if weight.dim() != 2:
        raise UsageError(f"has shape {list(weight.shape)}; 2 dimensions are wanted", "weight")
    rows, format = _rows_of(weight, format, "weight")
    rows = rows.to(weight.device if device is None else device)
    return Packed(_op("pack")(rows, format, act), format, weight.shape[0], _row_values(rows, format), act)


def _linear(x, packed, bias, format, n, act):
    rows = matrix(x)
    out = rows.new_empty((rows.shape[0], n))
    _native.linear(compute(), rows, packed.detach(), None if bias is None else _flat(bias), format, n, act, out)
    return out.view(*x.shape[:-1], n)


def _linear_fake(x, packed, bias, format, n, act):
    return x.new_empty((*x.shape[:-1], n))


def linear(x: torch.Tensor, packed: torch.Tensor, format: str, n: int, bias: Optional[torch.Tensor] = None,
           act: str = "q16") -> torch.Tensor:
    """x [.., k] float32, float16 or bfloat16 times a packed weight [n, k], plus bias [n]: [.., n] of the type of x.

    packed, format, n, act: what `pack` gave."""
    _want_tensor("x", x, 1)
    _want_tensor("packed", packed, 1)
    _want_one_device(x=x, packed=packed, bias=bias)
    return _op("linear")(x, packed, bias, format, n, act)


# Experts.

class Experts:
    """The routed experts of one layer, packed; give it to `moe`.

    gate, up: [n_experts, d_ff, d_model], down: [n_experts, d_model, d_ff] floats, or with `format` rows of that format,
    uint8 [n_experts, rows, row_bytes]. They are copied. backend: "llamafile" keeps the weights as they are, "AMXInt8"
    and "AMXInt4" round them to integers with one scale per row, "AMXBF16" to bfloat16. swiglu_limit: bounds gate and
    up before silu(gate) * up. device: where they will be used (none: where gate is). On a GPU there is "llamafile"
    alone, for some formats, without swiglu_limit and act "f32"."""

    _all: "weakref.WeakValueDictionary[int, Experts]" = weakref.WeakValueDictionary()
    _numbers = itertools.count(1)

    def __init__(self, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, format: Optional[str] = None, *,
                 backend: str = "llamafile", act: str = "q16", swiglu_limit: float = 0.0,
                 device: Optional[torch.device] = None):
        for name, x in (("gate", gate), ("up", up), ("down", down)):
            _want_tensor(name, x, 3)
        _want_one_device(gate=gate, up=up, down=down)
        to = gate.device if device is None else torch.empty(0, device=device).device
        if to.type == "cuda":
            self._keep(_experts_on_gpu((gate, up, down), format, backend, act, swiglu_limit, to))
            return
        gate, up, down = gate.to(to), up.to(to), down.to(to)
        spec = _native.ExpertSpec()
        spec.n_active = 1  # as many as ids say
        spec.d_ff, spec.d_model = gate.shape[1], down.shape[1]
        spec.logical = list(range(gate.shape[0]))
        spec.backend, spec.act, spec.swiglu_limit = backend, act, swiglu_limit
        self._keep(_native.ExpertLayer.from_arrays(compute(), spec, _flat(gate), _flat(up), _flat(down), format or ""))

    @classmethod
    def from_layer(cls, layer: _native.ExpertLayer) -> "Experts":
        """Around a layer that is loaded already."""
        self = cls.__new__(cls)
        self._keep(layer)
        return self

    def _keep(self, layer) -> None:
        self.layer = layer
        self.handle = next(self._numbers)
        self._all[self.handle] = self

    n_experts = property(lambda self: self.layer.n_experts)
    d_model = property(lambda self: self.layer.d_model)
    d_ff = property(lambda self: self.layer.d_ff)
    format = property(lambda self: self.layer.format, doc="How the weights are kept.")
    weight_bytes = property(lambda self: self.layer.bytes, doc="Bytes of the packed weights.")
    device = property(lambda self: getattr(self.layer, "device", torch.device("cpu")))


def _experts_on_gpu(weights, format, backend, act, swiglu_limit, device) -> cuda_ops.ExpertLayer:
    for name, given, only in (("backend", backend, "llamafile"), ("swiglu_limit", swiglu_limit, 0.0)):
        if given != only:
            raise UsageError(f"is {given!r}; there are CUDA kernels for {only!r} alone", name)
    if act not in ("q16", "q8"):
        raise UsageError(f"is {act!r}; CUDA kernels for experts round activations to bfloat16 (q16)", "act")
    if format is not None and any(x.dtype != torch.uint8 for x in weights):
        raise UsageError("are floats, which have their own format", "gate, up, down")
    found = [_rows_of(x, format, name) for name, x in zip(("gate", "up", "down"), weights)]
    formats_found = {one for _, one in found}
    if len(formats_found) > 1:
        raise UsageError(f"are {', '.join(sorted(formats_found))}; one format is wanted", "gate, up, down")
    name = formats_found.pop()
    return cuda_ops.ExpertLayer(*(rows for rows, _ in found), name, lambda rows: _row_values(rows, name), device)


def _experts(handle: int, x: torch.Tensor):
    found = Experts._all.get(handle)
    if found is None:
        raise UsageError(f"no layer has the number {handle}, or it is gone", "experts")
    if found.device != x.device:
        raise UsageError(f"are on {found.device}, x on {x.device}; all are wanted on one device", "experts")
    return found.layer


def _moe(x, ids, weights, experts):
    rows = matrix(x)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    _experts(experts, x).forward(rows, matrix(ids), matrix(weights).float(), out, None, None, max(1, rows.shape[0]),
                                    True)
    return out.view(x.shape)


def _moe_cuda(x, ids, weights, experts):
    return cuda_ops.moe(x, ids, weights, _experts(experts, x))


def _moe_fake(x, ids, weights, experts):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def moe(x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, experts: Experts) -> torch.Tensor:
    """The weighted sum of the experts that a router chose for each row: like x.

    x [.., d_model] float32, float16 or bfloat16; ids [.., k] int32 or int64, negative: none; weights [.., k]. On a GPU
    ids that are too large are left out, too; on the CPU they raise UsageError.
    An exported program names `experts` by its number in this process, and must run in it."""
    for name, tensor in (("x", x), ("ids", ids), ("weights", weights)):
        _want_tensor(name, tensor, 1)
    _want_one_device(x=x, ids=ids, weights=weights)
    return _op("moe")(x, ids, weights, experts.handle)


# Attention.

def _attention(q, k_cache, v_cache, lengths, block_table, query_starts, scale, window):
    out = q.new_empty((q.shape[0], q.shape[1], v_cache.shape[-1]))
    if query_starts is None:
        query_starts = torch.arange(q.shape[0] + 1, dtype=torch.int32)
    _native.attention(compute(), _flat(q), k_cache.detach(), v_cache.detach(),
                      None if block_table is None else block_table.to(torch.int32), lengths.to(torch.int32),
                      query_starts.to(torch.int32), scale, window, out)
    return out


def _attention_fake(q, k_cache, v_cache, lengths, block_table, query_starts, scale, window):
    return q.new_empty((q.shape[0], q.shape[1], v_cache.shape[-1]))


def attention(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, lengths: torch.Tensor,
              block_table: Optional[torch.Tensor] = None, query_starts: Optional[torch.Tensor] = None,
              scale: Optional[float] = None, window: int = 0) -> torch.Tensor:
    """Causal attention of the last rows of each sequence over its cache: [n_rows, n_heads, dim_v], like q.

    q [n_rows, n_heads, dim], rows of all sequences one after the other; query_starts [n_sequences + 1]: where each
    begins (none: one row each). lengths [n_sequences]: tokens in the cache, these rows among them.
    k_cache, v_cache: [n_sequences, n_tokens, n_kv_heads, dim], or with block_table [n_sequences, n] of page numbers
    [n_pages, 64, n_kv_heads, dim]; n_heads is a multiple of n_kv_heads.
    scale: of q · k (none: 1 / sqrt(dim)). window: tokens that a query looks back, itself included; 0: all.
    On a GPU caches are bfloat16, without block_table of a multiple of 64 tokens, and what lengths, query_starts and
    block_table say is not checked."""
    for name, x, dims in (("q", q, 3), ("k_cache", k_cache, 4), ("v_cache", v_cache, 4), ("lengths", lengths, 1)):
        _want_tensor(name, x, dims)
    _want_one_device(q=q, k_cache=k_cache, v_cache=v_cache, lengths=lengths, block_table=block_table,
                     query_starts=query_starts)
    return _op("attention")(q, k_cache, v_cache, lengths, block_table, query_starts,
                            q.shape[-1] ** -0.5 if scale is None else scale, window)


def _latent_streams(latent_cache, kv_lora_rank):
    """The latents as keys and values of one head."""
    if latent_cache.dim() != 3 or not 0 < kv_lora_rank <= latent_cache.shape[-1]:
        raise UsageError(f"has shape {list(latent_cache.shape)}; [n, tokens, kv_lora_rank + rope] with a "
                         f"kv_lora_rank of {kv_lora_rank} is wanted", "latent_cache")
    keys = latent_cache.unsqueeze(2)
    return keys, keys[..., :kv_lora_rank]


def _mla_decode(q, latent_cache, lengths, kv_lora_rank, block_table, query_starts, scale):
    streams = _latent_streams(latent_cache, kv_lora_rank)
    return _attention(q, *streams, lengths, block_table, query_starts, scale, 0)


def _mla_decode_cuda(q, latent_cache, lengths, kv_lora_rank, block_table, query_starts, scale):
    streams = _latent_streams(latent_cache, kv_lora_rank)
    return cuda_ops.attention(q, *streams, lengths, block_table, query_starts, scale, 0)


def _mla_decode_fake(q, latent_cache, lengths, kv_lora_rank, block_table, query_starts, scale):
    return q.new_empty((q.shape[0], q.shape[1], kv_lora_rank))


def mla_decode(q: torch.Tensor, latent_cache: torch.Tensor, lengths: torch.Tensor, kv_lora_rank: int, scale: float,
               block_table: Optional[torch.Tensor] = None, query_starts: Optional[torch.Tensor] = None) -> torch.Tensor:
    """Multi-head latent attention over a cache of latents, absorbed: [n_rows, n_heads, kv_lora_rank], like q.

    q [n_rows, n_heads, kv_lora_rank + rope]: queries times K_b, then their rotary part. latent_cache: [n_sequences,
    n_tokens, kv_lora_rank + rope], or pages [n_pages, 64, kv_lora_rank + rope]: the normed latent, then the rotary
    key. The result goes through V_b. The rest as in `attention`; scale is usually 1 / sqrt(nope + rope)."""
    for name, x, dims in (("q", q, 3), ("latent_cache", latent_cache, 3), ("lengths", lengths, 1)):
        _want_tensor(name, x, dims)
    _want_one_device(q=q, latent_cache=latent_cache, lengths=lengths, block_table=block_table,
                     query_starts=query_starts)
    return _op("mla_decode")(q, latent_cache, lengths, kv_lora_rank, block_table, query_starts, scale)


# Vector kernels.

def _rms_norm(x, weight, eps):
    rows = matrix(x)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    _native.rms_norm(compute(), rows, _flat(weight), eps, out)
    return out.view(x.shape)


def _like_fake(x, *_):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimension, like x."""
    _want_tensor("x", x, 1)
    _want_one_device(x=x, weight=weight)
    return _op("rms_norm")(x, weight, eps)


def _silu_mul(gate, up):
    rows = matrix(gate)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    _native.silu_mul(compute(), rows, matrix(up), out)
    return out.view(gate.shape)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate * sigmoid(gate) * up, like gate."""
    _want_tensor("gate", gate, 1)
    _want_tensor("up", up, 1)
    _want_one_device(gate=gate, up=up)
    return _op("silu_mul")(gate, up)


for _schema, _kernel, _fake, _cuda in (
        ("quantize(Tensor x, str format) -> Tensor", _quantize, _quantize_fake, cuda_ops.quantize),
        ("dequantize(Tensor rows, str format) -> Tensor", _dequantize, _dequantize_fake, _dequantize_cuda),
        ("pack(Tensor rows, str format, str act) -> Tensor", _pack, _pack_fake, _pack_cuda),
        ("linear(Tensor x, Tensor packed, Tensor? bias, str format, int n, str act) -> Tensor",
         _linear, _linear_fake, cuda_ops.linear),
        ("moe(Tensor x, Tensor ids, Tensor weights, int experts) -> Tensor", _moe, _moe_fake, _moe_cuda),
        ("attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor lengths, Tensor? block_table, "
         "Tensor? query_starts, float scale, int window) -> Tensor", _attention, _attention_fake, cuda_ops.attention),
        ("mla_decode(Tensor q, Tensor latent_cache, Tensor lengths, int kv_lora_rank, Tensor? block_table, "
         "Tensor? query_starts, float scale) -> Tensor", _mla_decode, _mla_decode_fake, _mla_decode_cuda),
        ("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", _rms_norm, _like_fake, cuda_ops.rms_norm),
        ("silu_mul(Tensor gate, Tensor up) -> Tensor", _silu_mul, _like_fake, cuda_ops.silu_mul)):
    _register(_schema, _kernel, _fake, _cuda)
