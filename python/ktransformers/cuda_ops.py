"""The ops of ktransformers.ops for tensors on a GPU: kernels of the GPU plug-in on torch's current stream.

Results and work memory come from torch, and everything is launched on the stream that is current, so that torch's
allocator, graphs (torch.cuda.graph) and other streams mean what they mean for torch's own ops. Nothing waits for the
GPU and nothing is copied from it, with one exception: of packed weights that `pack` did not make in this process
(loaded, cloned, moved) the header is read once. Numbers inside tensors (ids, lengths, pages) are not looked at.

Kernels multiply in bfloat16 and add in float32; x in another type is rounded.
"""
import functools
import os
import threading
from typing import NamedTuple, Optional

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ktransformers import _native
from ktransformers.errors import UsageError

_lock = threading.Lock()
_gpus: dict[int, _native.CudaDevice] = {}


@functools.cache
def plugin() -> _native.GpuPlugin:
    """The GPU plug-in: what KT_GPU_PLUGIN names, or libkt_cuda.so beside the program `kt` of this package. Raises
    NotFoundError, BadFileError, UnsupportedError (of another build)."""
    return _native.GpuPlugin(os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin"))


# Launches.

def _capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _gpu(device: torch.device) -> _native.CudaDevice:
    index = torch.cuda.current_device() if device.index is None else device.index
    with _lock:
        gpu = _gpus.get(index)
        if gpu is None:
            if _capturing():
                raise UsageError(f"is first used while a graph is recorded; run an op on it before", f"cuda:{index}")
            gpu = _gpus[index] = _native.CudaDevice(plugin(), index)
        return gpu


class _Memory:
    """Work memory of one launch. Given back when it is dropped, which is right as soon as the launch is queued: what
    gets it next comes later on the same stream."""

    def __init__(self, device: torch.device):
        self.device = device
        self.kept: Optional[torch.Tensor] = None

    def __call__(self, size: int) -> int:
        self.kept = torch.empty(size, dtype=torch.uint8, device=self.device)
        return self.kept.data_ptr()


class _Array(NamedTuple):
    """A tensor that a kernel gets, with the name of the argument for messages."""
    name: str
    tensor: torch.Tensor


def _want_on(device: torch.device, name: str, x: torch.Tensor) -> None:
    if x.device != device:
        raise UsageError(f"is on {x.device}, another argument on {device}; all are wanted on one device", name)


def _describe(array: _Array, device: torch.device) -> tuple:
    """As the native part takes it: address, type, shape, strides."""
    name, x = array
    _want_on(device, name, x)
    return x.data_ptr(), str(x.dtype).removeprefix("torch."), x.shape, x.stride()


def _launch(device: torch.device, name: str, *arguments) -> None:
    """The kernel's launches on torch's current stream; arguments live at least until they are queued."""
    memory = _Memory(device)
    given = [_describe(x, device) if isinstance(x, _Array) else x for x in arguments]
    with torch.cuda.device(device):  # opening a GPU makes it the thread's
        getattr(_gpu(device), name)(torch.cuda.current_stream(device).cuda_stream, memory, *given)


# Tensors in the types and layouts that kernels want.

def matrix(x: torch.Tensor) -> torch.Tensor:
    """x [.., k] as a matrix with contiguous rows that do not overlap; a view where there can be one."""
    x = x.detach()
    x = x.flatten(0, -2) if x.dim() > 1 else x.reshape(1, -1)
    apart = x.shape[0] <= 1 or x.stride(0) >= x.shape[1]
    return x if apart and (x.stride(-1) == 1 or x.shape[-1] == 1) else x.contiguous()


def _want_float(name: str, x: torch.Tensor) -> None:
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UsageError(f"has elements of {str(x.dtype).removeprefix('torch.')}; wanted: float32, float16, bfloat16",
                         name)


def _aligned(x: torch.Tensor, address: int) -> torch.Tensor:
    """A matrix whose rows begin at multiples of 16 bytes and whose address is one of `address`."""
    good = x.data_ptr() % address == 0 and (x.shape[0] <= 1 or x.stride(0) * x.element_size() % 16 == 0)
    return x if good else x.clone(memory_format=torch.contiguous_format)


def _bf16(name: str, x: torch.Tensor) -> torch.Tensor:
    _want_float(name, x)
    rows = matrix(x).to(torch.bfloat16)
    return _aligned(rows, 256 if rows.shape[0] > _native.DIRECT_ROWS else 16)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """float16 as float32; kernels know float32 and bfloat16."""
    return x.float() if x.dtype == torch.float16 else x


def _out(x: torch.Tensor, *shape: int) -> torch.Tensor:
    """Where a kernel writes what will become of the type of x."""
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    return torch.empty(shape, dtype=dtype, device=x.device)


# Formats.

def quantize(x, format):
    raise UsageError("quantize: there is no CUDA kernel for it; quantise x.cpu(), or give the floats to pack", "x")


def dequantize(rows, format, values):
    """values: of a row."""
    flat = matrix(rows).contiguous()
    out = torch.empty((flat.shape[0], values), dtype=torch.float32, device=rows.device)
    _launch(rows.device, "dequantize", _Array("rows", flat), format, _Array("out", out))
    return out.view(*rows.shape[:-1], values)


# Packed weights. Which header each has is known here, as the kernels cannot tell without a wait.

_packs: dict[tuple[int, int], tuple[StorageWeakRef, bytes]] = {}  # (storage, offset) → it and its header
_sweep_at = 64


def _remember(packed: torch.Tensor, header: bytes) -> bytes:
    global _sweep_at
    storage = packed.untyped_storage()
    with _lock:
        if len(_packs) >= _sweep_at:
            for key in [key for key, (ref, _) in _packs.items() if ref.expired()]:
                del _packs[key]
            _sweep_at = max(64, 2 * len(_packs))
        # A weak reference keeps the number from being used again.
        _packs[storage._cdata, packed.storage_offset()] = StorageWeakRef(storage), header
    return header


def _header(packed: torch.Tensor, wanted: bytes) -> bytes:
    """The header of a packed weight: what `pack` wrote there, else read from the GPU, until it is the wanted one."""
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        return b""  # refused
    known = _packs.get((packed.untyped_storage()._cdata, packed.storage_offset()))
    if known is not None and known[1] == wanted:
        return wanted
    if _capturing():
        raise UsageError("was not packed in this process and is first used while a graph is recorded; use it before",
                         "packed")
    read = bytes(packed.detach()[:len(wanted)].cpu().tolist())
    return _remember(packed, read) if read == wanted else read


def packed_bytes(format: str, n: int, k: int) -> int:
    """Bytes of a packed weight [n, k], its header among them. Raises UsageError where there is no kernel."""
    return plugin().packed_bytes(format, n, k)


def pack(rows, format, values):
    """values: of a row."""
    n, device = rows.shape[0], rows.device
    packed = torch.empty(packed_bytes(format, n, values), dtype=torch.uint8, device=device)
    header = plugin().header(format, n, values)
    begin = _native.GpuPlugin.HEADER_BYTES
    packed[:begin].copy_(torch.tensor(list(header.ljust(begin, b"\0")), dtype=torch.uint8), non_blocking=True)
    _pack_into(packed[begin:], rows, format)
    _remember(packed, header)
    return packed


def _pack_into(tiles, rows, format):
    rows = matrix(rows).contiguous()
    rows = rows if rows.data_ptr() % 16 == 0 else rows.clone()
    _launch(rows.device, "pack", _Array("weight", rows), format, _Array("out", tiles))


def linear(x, packed, bias, format, n, act):
    if n < 1:
        raise UsageError(f"is {n}; the weight's rows are wanted", "n")
    _want_float("x", x)
    exact = act == "f32"  # by the slow twin
    rows = _aligned(_wide(matrix(x)), 16) if exact else _bf16("x", x)
    out, device = _out(x, rows.shape[0], n), x.device
    _want_on(device, "packed", packed)
    if packed.data_ptr() % 16:
        raise UsageError("begins at an address that is no multiple of 16; clone() it", "packed")
    header = _header(packed, plugin().header(format, n, rows.shape[1]))
    _launch(device, "linear", _Array("x", rows), _Array("packed", packed), header,
            None if bias is None else _Array("bias", bias.detach().float().contiguous()), format, act,
            _Array("out", out))
    return out.to(x.dtype).view(*x.shape[:-1], n)


# Experts.

class ExpertLayer:
    """The routed experts of one layer on a GPU: what ops.Experts keeps there.

    gate, up: [n_experts, d_ff, d_model], down: [n_experts, d_model, d_ff] as rows of `format`, uint8, on any device.
    Raises UsageError where there is no kernel."""

    def __init__(self, gate, up, down, format: str, block_values, device: torch.device):
        """block_values: bytes of a row → its values."""
        plugin().want_experts(format)
        self.device, self.format = device, format
        self.n_experts, self.d_ff, self.d_model = int(gate.shape[0]), int(gate.shape[1]), int(down.shape[1])
        if self.n_experts < 1:
            raise UsageError("is 0; at least 1 is wanted", "num_experts")
        sizes = {"gate": (self.d_ff, self.d_model), "up": (self.d_ff, self.d_model), "down": (self.d_model, self.d_ff)}
        self._tiles = []
        for (name, (n, k)), rows in zip(sizes.items(), (gate, up, down)):
            got = (*rows.shape[:2], block_values(rows))
            if got != (self.n_experts, n, k):
                raise UsageError(f"holds {list(got)} values; {[self.n_experts, n, k]} are wanted", name)
            self._tiles.append(self._packed(rows, n, k))
        self.bytes = sum(tiles.numel() for tiles in self._tiles)
        self.native = _native.ExpertTiles(format, self.n_experts, self.d_model, self.d_ff,
                                          *(_describe(_Array("tiles", tiles), device) for tiles in self._tiles))

    def _packed(self, rows, n: int, k: int) -> torch.Tensor:
        one = packed_bytes(self.format, n, k) - _native.GpuPlugin.HEADER_BYTES
        tiles = torch.empty(self.n_experts * one, dtype=torch.uint8, device=self.device)
        for e in range(self.n_experts):
            _pack_into(tiles[e * one:(e + 1) * one], rows[e].detach().to(self.device), self.format)
        return tiles


_MOST_ROWS = 32768  # of a launch


def moe(x, ids, weights, layer: ExpertLayer):
    device = x.device
    rows = _bf16("x", x)
    if ids.dtype not in (torch.int32, torch.int64):
        raise UsageError(f"has elements of {str(ids.dtype).removeprefix('torch.')}; wanted: int32, int64", "ids")
    if ids.dtype == torch.int64:
        ids = ids.clamp(-1, 2 ** 31 - 1)  # those that are too large are left out
    chosen, factors = matrix(ids).to(torch.int32).contiguous(), matrix(weights).float().contiguous()
    if not rows.shape[0] or not chosen.shape[1]:
        return torch.zeros_like(x, memory_format=torch.contiguous_format)
    out = _out(x, *rows.shape)
    for i in range(0, rows.shape[0], _MOST_ROWS):
        part = slice(i, i + _MOST_ROWS)
        _launch(device, "moe", _Array("x", rows[part]), _Array("ids", chosen[part]),
                _Array("weights", factors[part]), layer.native, _Array("out", out[part]))
    return out.to(x.dtype).view(x.shape)


# Attention.

def _items(lengths, query_starts):
    """What each sequence asks for, int32 [n, 4]: first row of q, rows, position of the first, row of the table."""
    n, device = lengths.shape[0], lengths.device
    lengths = lengths.detach().to(torch.int32)
    rows = torch.arange(n, dtype=torch.int32, device=device)
    if query_starts is None:
        return torch.stack((rows, torch.ones_like(rows), lengths - 1, rows), 1)
    starts = query_starts.detach().to(torch.int32)
    counts = starts.diff()
    return torch.stack((starts[:-1], counts, lengths - counts, rows), 1)


def _as_pages(name: str, cache: torch.Tensor) -> torch.Tensor:
    """A run of tokens for each sequence as pages that follow each other."""
    n, n_tokens = cache.shape[:2]
    if n_tokens % _native.PAGE_LEN or (n > 1 and cache.stride(0) != n_tokens * cache.stride(1)):
        raise UsageError(f"has {n_tokens} tokens for each sequence; on a GPU a multiple of {_native.PAGE_LEN} is "
                         "wanted, without gaps between sequences", name)
    pages = n * n_tokens // _native.PAGE_LEN
    return cache.as_strided((pages, _native.PAGE_LEN, *cache.shape[2:]),
                            (_native.PAGE_LEN * cache.stride(1), *cache.stride()[1:]))


def attention(q, k_cache, v_cache, lengths, block_table, query_starts, scale, window):
    device = q.device
    _want_float("q", q)
    n, k, v = lengths.shape[0], k_cache.detach(), v_cache.detach()
    for name, x in (("lengths", lengths), ("query_starts", query_starts), ("block_table", block_table)):
        if x is not None:
            _want_on(device, name, x)
    if query_starts is None and q.shape[0] != n:
        raise UsageError(f"has shape {list(lengths.shape)}; [{q.shape[0]}] is wanted, or query_starts", "lengths")
    if query_starts is not None and query_starts.shape != (n + 1,):
        raise UsageError(f"has shape {list(query_starts.shape)}; [{n + 1}] is wanted", "query_starts")
    if not n and q.shape[0]:
        raise UsageError(f"has no sequence for the {q.shape[0]} rows of q", "lengths")
    if block_table is None:
        if k.shape[0] != n or v.shape[:2] != k.shape[:2]:
            raise UsageError(f"has shape {list(k.shape)}; the caches are wanted with {n} sequences", "k_cache")
        k, v = _as_pages("k_cache", k), _as_pages("v_cache", v)
        block_table = torch.arange(k.shape[0], dtype=torch.int32, device=device).view(n, k.shape[0] // max(n, 1))
    table = block_table.detach().to(torch.int32)
    out = _out(q, q.shape[0], q.shape[1], v.shape[-1])
    if q.shape[0]:
        items = _items(lengths, query_starts)
        most = 1 if query_starts is None else q.shape[0]
        queries = _aligned(q.detach().to(torch.bfloat16).contiguous(), 16)
        _launch(device, "attention", _Array("q", queries), _Array("k_cache", k),
                _Array("v_cache", v), _Array("block_table", table), _Array("items", items),
                most, scale, window, _Array("out", out))
    return out.to(q.dtype)


# Vector kernels.

def rms_norm(x, weight, eps):
    _want_float("x", x)
    _want_float("weight", weight)
    rows, device = _wide(matrix(x)), x.device
    out = _out(x, *rows.shape)
    if rows.shape[0]:
        _launch(device, "rms_norm", _Array("x", rows),
                _Array("weight", weight.detach().float().contiguous()), eps, _Array("out", out))
    return out.to(x.dtype).view(x.shape)


def silu_mul(gate, up):
    _want_float("gate", gate)
    a, b, device = _wide(matrix(gate)), _wide(matrix(up)), gate.device
    if a.shape[0] > 1 and a.stride(0) != b.stride(0):
        a, b = a.contiguous(), b.contiguous()
    out = _out(gate, *a.shape)
    if a.shape[0]:
        _launch(device, "silu_mul", _Array("gate", a), _Array("up", b), _Array("out", out))
    return out.to(gate.dtype).view(gate.shape)
