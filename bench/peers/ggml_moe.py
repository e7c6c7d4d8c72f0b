"""Times a MoE layer of llama.cpp's CPU backend for moe_layer.py.

    ggml_moe.py GGML_FOLDER D_MODEL D_FF EXPERTS ACTIVE LAYERS THREADS FORMAT

The graph is the one that llama.cpp's build_moe_ffn makes: mul_mat_id (up, gate), swiglu, mul_mat_id (down), times the
router's weights, summed. Weights lie in the plain CPU buffer, where llama.cpp's tiled kernel takes experts with
eight rows or more; its repacked buffer is slower there. All layers run as one graph, as in a model, up to 16 tokens
at least eight.
"""
import ctypes
import pathlib
import sys
import time

import numpy as np
from peer_common import Layer, Routing, Weights, dequantise, ggml_type, load_ggml, quantise, relative_error, sample, serve

P, I64, F32, I32 = ctypes.c_void_p, ctypes.c_int64, 0, 26


class Params(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", P), ("no_alloc", ctypes.c_bool)]


class Ggml:
    def __init__(self, folder: str, layer: Layer):
        self.lib, self.layer = load_ggml(pathlib.Path(folder)), layer
        self.backend = P(self.lib.ggml_backend_cpu_init())
        self.lib.ggml_backend_cpu_set_n_threads(self.backend, layer.threads)
        self.weights = Weights(layer, lambda x: quantise(self.lib, layer.format, x),
                               lambda rows, n: dequantise(layer.format, rows, n))
        kind = ggml_type(self.lib, layer.format)
        context = self.context(3 * layer.layers + 8)
        self.tensors = [{m: P(self.lib.ggml_new_tensor_3d(context, kind, I64(layer.dims(m)[1]), I64(layer.dims(m)[0]),
                                                          I64(layer.experts)))
                         for m in ("gate", "up", "down")} for _ in range(layer.layers)]
        if not self.lib.ggml_backend_alloc_ctx_tensors(context, self.backend):
            raise SystemExit("out of memory")
        self.bytes = 0
        for index, tensors in enumerate(self.tensors):
            for matrix, tensor in tensors.items():
                rows, columns = layer.dims(matrix)
                row = self.weights.pool[columns].shape[1]
                self.bytes += layer.experts * rows * row
                self.weights.fill(index, matrix, self.view(tensor, np.uint8, (layer.experts, rows, row)))

    def context(self, n: int) -> P:
        size = self.lib.ggml_tensor_overhead() * n + self.lib.ggml_graph_overhead_custom(ctypes.c_size_t(n), False)
        return P(self.lib.ggml_init(Params(size, None, True)))

    def view(self, tensor: P, kind, shape: tuple) -> np.ndarray:
        count = int(np.prod(shape)) * np.dtype(kind).itemsize
        memory = (ctypes.c_uint8 * count).from_address(self.lib.ggml_get_data(tensor))
        return np.frombuffer(memory, kind).reshape(shape)

    def input(self, tensor: int) -> P:
        self.lib.ggml_set_input(P(tensor))
        self.lib.ggml_set_output(P(tensor))
        return P(tensor)

    def ffn(self, context: P, graph: P, tensors: dict, x: P, ids: P, weights: P, n: int) -> P:
        lib, d, active = self.lib, self.layer.d_model, self.layer.active
        cur = P(lib.ggml_reshape_3d(context, x, I64(d), I64(1), I64(n)))
        up = P(lib.ggml_mul_mat_id(context, tensors["up"], cur, ids))
        gate = P(lib.ggml_mul_mat_id(context, tensors["gate"], cur, ids))
        h = P(lib.ggml_swiglu_split(context, gate, up))
        parts = P(lib.ggml_mul(context, P(lib.ggml_mul_mat_id(context, tensors["down"], h, ids)), weights))
        lib.ggml_build_forward_expand(graph, parts)
        views = [P(lib.ggml_view_2d(context, parts, I64(d), I64(n), ctypes.c_size_t(4 * d * active),
                                    ctypes.c_size_t(4 * d * i))) for i in range(active)]
        y = views[0]
        for view in views[1:]:
            y = P(lib.ggml_add(context, y, view))
        lib.ggml_set_output(y)
        lib.ggml_build_forward_expand(graph, y)
        return y

    def measure(self, n: int) -> dict:
        lib, layer = self.lib, self.layer
        instances = layer.layers * (-(-8 // layer.layers) if n <= 16 else 1)
        size = instances * (3 * layer.active + 16) + 16
        context = self.context(size)
        graph = P(lib.ggml_new_graph_custom(context, ctypes.c_size_t(size), False))
        x = self.input(lib.ggml_new_tensor_2d(context, F32, I64(layer.d_model), I64(n)))
        w = self.input(lib.ggml_new_tensor_3d(context, F32, I64(1), I64(layer.active), I64(n)))
        ids = [self.input(lib.ggml_new_tensor_2d(context, I32, I64(layer.active), I64(n))) for _ in range(instances)]
        outs = [self.ffn(context, graph, self.tensors[i % layer.layers], x, ids[i], w, n) for i in range(instances)]
        allocator = P(lib.ggml_gallocr_new(P(lib.ggml_backend_cpu_buffer_type())))
        if not lib.ggml_gallocr_alloc_graph(allocator, graph):
            raise SystemExit("out of memory")
        rng = np.random.default_rng(3)
        inputs = rng.standard_normal((n, layer.d_model), np.float32)
        shares = rng.random((n, layer.active), np.float32) + 0.5
        shares /= shares.sum(1, keepdims=True)
        self.view(x, np.float32, inputs.shape)[:] = inputs
        self.view(w, np.float32, shares.shape)[:] = shares
        tables = [self.view(t, np.int32, (n, layer.active)) for t in ids]
        routing = Routing(layer)

        def run() -> tuple[float, float]:
            for table in tables:
                table[:] = routing.next(n)[1]
            begin = time.perf_counter()
            lib.ggml_backend_graph_compute(self.backend, graph)
            seconds = (time.perf_counter() - begin) / instances
            return seconds, float(np.mean([len(np.unique(t)) for t in tables]))

        seconds, distinct = sample(run)
        run()
        got = self.view(outs[0], np.float32, (n, layer.d_model))[0].copy()
        error = relative_error(got, self.weights.exact(inputs[0], tables[0][0], shares[0]))
        lib.ggml_gallocr_free(allocator)
        lib.ggml_free(context)
        return {"n": n, "seconds": seconds, "distinct": distinct, "error": error}


def main() -> None:
    layer = Layer(sys.argv[2:])
    ggml = Ggml(sys.argv[1], layer)
    weights = 3 * layer.d_model * layer.d_ff * layer.experts * layer.layers
    serve(ggml.measure, {"peer": "llama.cpp", "kernel": "mul_mat_id, plain buffer",
                         "bits_per_weight": 8 * ggml.bytes / weights})


if __name__ == "__main__":
    main()
