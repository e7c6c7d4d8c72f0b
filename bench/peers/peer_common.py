"""What the programs that time a peer's MoE layer share: weights, routing, timing, the exact result, and the loop
that answers the driver (moe_layer.py): a line with a number of tokens comes in, a line of JSON goes out.

Weights are rows drawn from 256 Gaussian rows of variance 1/n, as `kt bench --kernels` makes them.
"""
import concurrent.futures
import ctypes
import json
import os
import pathlib
import sys
import time

import numpy as np

POOL = 256
LEAST, SECONDS, MOST = 5, 0.3, 5000
MATRICES = ("gate", "up", "down")


class Layer:
    """Shape of a MoE layer and how often it is there: arguments D_MODEL D_FF EXPERTS ACTIVE LAYERS THREADS FORMAT."""

    def __init__(self, words: list[str]):
        self.d_model, self.d_ff, self.experts, self.active, self.layers, self.threads = map(int, words[:6])
        self.format = words[6]

    def dims(self, matrix: str) -> tuple[int, int]:
        """(rows, columns)"""
        return (self.d_model, self.d_ff) if matrix == "down" else (self.d_ff, self.d_model)


def load_ggml(folder: pathlib.Path) -> ctypes.CDLL:
    """ggml with its CPU backend, from shared libraries in one folder."""
    if not (folder / "libggml-cpu.so").exists():
        raise SystemExit(f"{folder} has no libggml-cpu.so; moe_layer.py --prepare makes it")
    for name in ("libgomp.so.1", "libggml-base.so", "libggml-cpu.so"):
        if (folder / name).exists():
            library = ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_new_tensor_3d", "ggml_new_graph_custom", "ggml_mul_mat_id",
                 "ggml_reshape_3d", "ggml_swiglu_split", "ggml_mul", "ggml_add", "ggml_view_2d", "ggml_get_data",
                 "ggml_backend_cpu_init", "ggml_backend_cpu_buffer_type", "ggml_backend_alloc_ctx_tensors",
                 "ggml_gallocr_new"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("ggml_row_size", "ggml_quantize_chunk", "ggml_graph_overhead_custom", "ggml_tensor_overhead"):
        getattr(library, name).restype = ctypes.c_size_t
    library.ggml_type_name.restype = ctypes.c_char_p
    return library


def ggml_type(library: ctypes.CDLL, name: str) -> int:
    for number in range(64):
        known = library.ggml_type_name(number)
        if known and known.decode().lower() == name.lower():
            return number
    raise SystemExit(f"ggml has no type '{name}'")


def bf16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def quantise(library: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    """Rows of floats → rows of bytes in a ggml type."""
    kind = ggml_type(library, name)
    rows, columns = x.shape
    out = np.empty((rows, library.ggml_row_size(kind, ctypes.c_int64(columns))), np.uint8)
    library.ggml_quantize_chunk(kind, ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data),
                                ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(columns), None)
    return out


def dequantise(name: str, rows: np.ndarray, columns: int) -> np.ndarray:
    """Rows of bytes back to floats."""
    if name == "bf16":
        return from_bf16(rows.view(np.uint16)).reshape(-1, columns)
    if name == "q8_0":
        blocks = rows.reshape(-1, 34)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        return (scale * blocks[:, 2:].view(np.int8)).reshape(-1, columns)
    if name == "q4_0":
        blocks = rows.reshape(-1, 18)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).astype(np.float32) - 8
        return (scale * codes).reshape(-1, columns)
    if name != "q4_k":
        raise SystemExit(f"no decoder for '{name}'")
    blocks = rows.reshape(-1, 144)
    d, least = (blocks[:, i:i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    packed = blocks[:, 4:16]
    low, high = packed[:, 0:4], packed[:, 4:8]
    scales = np.concatenate([low & 63, (packed[:, 8:12] & 15) | (low >> 6 << 4)], 1).astype(np.float32)
    mins = np.concatenate([high & 63, (packed[:, 8:12] >> 4) | (high >> 6 << 4)], 1).astype(np.float32)
    q = blocks[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([q & 15, q >> 4], 2).reshape(-1, 8, 32).astype(np.float32)
    return ((d * scales)[:, :, None] * codes - (least * mins)[:, :, None]).reshape(-1, columns)


class Weights:
    """Encoded rows to draw from, and which of them every expert's matrix has."""

    def __init__(self, layer: Layer, encode, decode):
        self.layer, self.decode = layer, decode
        rng = np.random.default_rng(11)
        self.pool = {n: encode(rng.standard_normal((POOL, n), np.float32) / np.float32(np.sqrt(n)))
                     for n in {layer.d_model, layer.d_ff}}

    def choice(self, index: int, expert: int, matrix: str) -> np.ndarray:
        seed = (index * 4096 + expert) * 4 + MATRICES.index(matrix)
        return np.random.default_rng(seed).integers(0, POOL, self.layer.dims(matrix)[0])

    def fill(self, index: int, matrix: str, out: np.ndarray) -> None:
        """out: [experts, rows, bytes of a row]."""
        pool = self.pool[self.layer.dims(matrix)[1]]

        def one(expert: int) -> None:
            np.take(pool, self.choice(index, expert, matrix), axis=0, out=out[expert], mode="clip")

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(one, range(self.layer.experts)))

    def exact(self, x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """One row through layer 0 in float64."""
        decoded = {n: self.decode(rows, n).astype(np.float64) for n, rows in self.pool.items()}
        y = np.zeros(self.layer.d_model)

        def apply(expert: int, matrix: str, v: np.ndarray) -> np.ndarray:
            return (decoded[self.layer.dims(matrix)[1]] @ v)[self.choice(0, expert, matrix)]

        for expert, weight in zip(ids, weights):
            gate, up = (apply(int(expert), m, x.astype(np.float64)) for m in ("gate", "up"))
            y += float(weight) * apply(int(expert), "down", gate / (1 + np.exp(-gate)) * up)
        return y


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


class Routing:
    """One token walks through all experts of all layers before one repeats; more choose independently."""

    def __init__(self, layer: Layer):
        self.layer, self.rng, self.calls = layer, np.random.default_rng(7), 0
        self.unused = [np.empty(0, np.int64) for _ in range(layer.layers)]

    def next(self, n: int) -> tuple[int, np.ndarray]:
        index, active = self.calls % self.layer.layers, self.layer.active
        self.calls += 1
        if n > 1:
            return index, np.argsort(self.rng.random((n, self.layer.experts)), 1)[:, :active].copy()
        if len(self.unused[index]) < active:
            self.unused[index] = self.rng.permutation(self.layer.experts)
        ids, self.unused[index] = self.unused[index][:active], self.unused[index][active:]
        return index, ids.reshape(1, active).copy()


def sample(run) -> tuple[list[float], float]:
    """Seconds of each call of run(), which returns (seconds, distinct experts), after a warm-up; mean distinct."""
    begin = time.perf_counter()
    run()
    while time.perf_counter() - begin < SECONDS / 4:
        run()
    begin, seconds, distinct = time.perf_counter(), [], []
    while len(seconds) < LEAST or (time.perf_counter() - begin < SECONDS and len(seconds) < MOST):
        t, u = run()
        seconds.append(t)
        distinct.append(u)
    return seconds, float(np.mean(distinct))


def serve(measure, about: dict) -> None:
    """Answers each line "N" with measure(N), a dict, until standard input ends."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), flush=True)
    os._exit(0)  # peers' threads may hang in their destructors
