"""Times a MoE layer of kt-kernel for moe_layer.py.

    kt_kernel_moe.py KT_FOLDER GGML_FOLDER D_MODEL D_FF EXPERTS ACTIVE LAYERS THREADS FORMAT

Calls the wheel's compiled extension as kt-kernel's own wrapper and benches do, CPUInfer.submit(moe.forward_task(…))
and sync(), without torch. Formats: q4_k and q8_0 (its LLAMAFILE method), bf16, int8 (AMXINT8: one scale per row).
KT_FOLDER holds kt_kernel/ and kt_kernel.libs/ of the wheel; ggml encodes the weights.
"""
import glob
import importlib.util
import pathlib
import sys
import time

import numpy as np
from peer_common import (MATRICES, Layer, Routing, Weights, bf16, dequantise, from_bf16, ggml_type, load_ggml, quantise,
                         relative_error, sample, serve)

FORMATS = ("q4_k", "q8_0", "bf16", "int8")
MAX_TOKENS = 8192


def variant() -> str:
    flags = set()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split(":", 1)[1].split())
            break
    levels = [("amx", {"amx_tile", "amx_int8", "amx_bf16"}), ("avx512_bf16", {"avx512_bf16", "avx512vbmi"}),
              ("avx512_vbmi", {"avx512vbmi", "avx512_vnni"}), ("avx512_vnni", {"avx512_vnni"}),
              ("avx512_base", {"avx512f", "avx512bw"})]
    return next((name for name, wanted in levels if wanted <= flags), "avx2")


def load_extension(folder: str):
    name = f"_kt_kernel_ext_{variant()}.cpython-{sys.version_info[0]}{sys.version_info[1]}-*.so"
    found = glob.glob(str(pathlib.Path(folder) / "kt_kernel" / name))
    if not found:
        raise SystemExit(f"{folder}/kt_kernel has no {name}: another Python's wheel, or another CPU's part of it")
    spec = importlib.util.spec_from_file_location("kt_kernel_ext", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row_int8(rows: np.ndarray, columns: int) -> np.ndarray:
    """What AMXINT8 makes of BF16 rows: 8 bits, one scale per row."""
    x = from_bf16(rows.view(np.uint16)).reshape(-1, columns)
    scale = np.abs(x).max(1, keepdims=True) / 127
    return np.rint(x / scale) * scale


class KtKernel:
    def __init__(self, folder: str, ggml_folder: str, layer: Layer):
        if layer.format not in FORMATS:
            raise SystemExit(f"kt-kernel is asked for {', '.join(FORMATS)} only, not {layer.format}")
        self.kt, self.layer = load_extension(folder), layer
        self.ggml = load_ggml(pathlib.Path(ggml_folder))
        stored = {"int8": "bf16"}.get(layer.format, layer.format)
        decode = row_int8 if layer.format == "int8" else lambda rows, n: dequantise(stored, rows, n)
        self.weights = Weights(layer, lambda x: quantise(self.ggml, stored, x), decode)
        config = self.kt.WorkerPoolConfig()
        config.subpool_count, config.subpool_numa_map, config.subpool_thread_count = 1, [0], [layer.threads]
        self.infer = self.kt.CPUInfer(config)
        self.keep, self.moes = [], []
        order = np.arange(layer.experts, dtype=np.int64)
        for index in range(layer.layers):
            arrays = self.read(index)
            moe, held = self.make(index, arrays, order)
            self.infer.submit(moe.load_weights_task(order.ctypes.data))
            self.infer.sync()
            self.moes.append(moe)
            self.keep.append((arrays if held else None, order))

    def read(self, index: int) -> dict:
        arrays = {}
        for m in MATRICES:
            rows, columns = self.layer.dims(m)
            arrays[m] = np.empty((self.layer.experts, rows, self.weights.pool[columns].shape[1]), np.uint8)
            self.weights.fill(index, m, arrays[m])
        return arrays

    def make(self, index: int, arrays: dict, order: np.ndarray):
        """The layer's object, and whether it reads these arrays in place."""
        layer, moe = self.layer, self.kt.moe
        c = moe.MOEConfig(layer.experts, layer.active, layer.d_model, layer.d_ff, 0)
        c.layer_idx, c.max_len, c.pool = index, MAX_TOKENS, self.infer.backend_
        c.physical_to_logical_map = order.ctypes.data
        for m in MATRICES:
            if layer.format == "bf16":
                setattr(c, m + "_projs", [[arrays[m][e].ctypes.data for e in range(layer.experts)]])
                setattr(c, m + "_scales", [[0] * layer.experts])
            else:
                setattr(c, m + "_proj", arrays[m].ctypes.data)
        if layer.format == "int8":
            return self.pick("AMXInt8_MOE")(c), False
        if layer.format == "bf16":
            return self.pick("AMXBF16_MOE", "AVX2BF16_MOE")(c), False
        c.m_block, c.group_min_len, c.group_max_len = 32, 10, MAX_TOKENS
        c.gate_type = c.up_type = c.down_type = ggml_type(self.ggml, layer.format)
        c.hidden_type = ggml_type(self.ggml, "bf16")
        return moe.MOE(c), True

    def pick(self, *names: str):
        for name in names:
            if hasattr(self.kt.moe, name):
                self.kernel = name
                return getattr(self.kt.moe, name)
        raise SystemExit(f"kt-kernel has no {names[0]} for this CPU ({variant()})")

    kernel = "LLAMAFILE"

    def bits(self) -> float:
        """Per weight, as held in memory."""
        rows = {"int8": 8 + 32 * (2 * self.layer.d_ff + self.layer.d_model) /
                (3 * self.layer.d_model * self.layer.d_ff), "bf16": 16.0, "q4_k": 4.5, "q8_0": 8.5}
        return rows[self.layer.format]

    def measure(self, n: int) -> dict:
        layer, rng = self.layer, np.random.default_rng(3)
        x = bf16(rng.standard_normal((n, layer.d_model), np.float32))
        shares = rng.random((n, layer.active), np.float32) + 0.5
        shares /= shares.sum(1, keepdims=True)
        y = np.zeros((n, layer.d_model), np.uint16)
        count = np.array([n], np.int32)
        routing = Routing(layer)

        def forward(index: int, ids: np.ndarray) -> float:
            begin = time.perf_counter()
            self.infer.submit(self.moes[index].forward_task(count.ctypes.data, layer.active, ids.ctypes.data,
                                                            shares.ctypes.data, x.ctypes.data, y.ctypes.data, False))
            self.infer.sync()
            return time.perf_counter() - begin

        def run() -> tuple[float, float]:
            index, ids = routing.next(n)
            return forward(index, ids), len(np.unique(ids))

        seconds, distinct = sample(run)
        ids = Routing(layer).next(n)[1]
        y[:] = 0
        forward(0, ids)
        error = relative_error(from_bf16(y[0]), self.weights.exact(from_bf16(x[0]), ids[0], shares[0]))
        return {"n": n, "seconds": seconds, "distinct": distinct, "error": error}


def main() -> None:
    peer = KtKernel(sys.argv[1], sys.argv[2], Layer(sys.argv[3:]))
    serve(peer.measure, {"peer": "kt-kernel", "kernel": f"{peer.kernel} ({variant()})",
                         "bits_per_weight": peer.bits()})


if __name__ == "__main__":
    main()
