"""The ops of ktransformers.ops on a GPU, with nothing but Python, PyTorch and the package.

    KT_GPU_PLUGIN=libkt_cuda.so tools/gpu_python.py [FOLDER]

FOLDER holds the package (build/python). Every op is compared with PyTorch in float64 on the decoded weights and with the
same op on CPU tensors; then it has to give the same bits on another stream, recorded in a graph and replayed with other
inputs, and compiled, all while PyTorch makes an error of whatever waits for the GPU. The blocks of docs/python-ops.md for
GPUs are run. Exits with 0 when all agree.
"""
import math
import pathlib
import re
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = 64
failures = []


def check(what: str, good: bool, said: str = "") -> None:
    if not good:
        failures.append(what)
        print(f"{what}: {said or 'differs'}", flush=True)


def error_of(got: torch.Tensor, want: torch.Tensor) -> float:
    """Of all values together, relative; infinite with a NaN."""
    difference = (got.cpu().double() - want.cpu().double()).norm() / want.cpu().double().norm()
    return float(difference) if math.isfinite(difference) else math.inf


class Quiet:
    """No op may wait for the GPU in here."""

    def __enter__(self):
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_):
        torch.cuda.set_sync_debug_mode("default")


class Case:
    """One op: call(*inputs) with tensors of `make()`, which gives others each time; want(*inputs) in float64."""

    def __init__(self, name, make, call, want, bound):
        self.name, self.make, self.call, self.want, self.bound = name, make, call, want, bound

    def run(self, device: str, thorough: bool) -> None:
        inputs = [x.to(device) for x in self.make()]
        got = self.call(*inputs)
        host = [x.cpu() for x in inputs]
        wrong = error_of(got, self.want(*host))
        check(self.name, wrong <= self.bound, f"an error of {wrong:.1e}, {self.bound:.0e} is allowed")
        on_cpu = error_of(got, self.call(*host))
        check(f"{self.name}, against the CPU", on_cpu <= 2 * self.bound, f"an error of {on_cpu:.1e}")
        if thorough:
            self.elsewhere(device, inputs, got)

    def elsewhere(self, device, inputs, got) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), Quiet():
            again = self.call(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        check(f"{self.name}, on a side stream", torch.equal(again, got))
        torch.compiler.reset()  # every case counts as another version of one function
        with Quiet():
            compiled = torch.compile(lambda *x: self.call(*x), fullgraph=True, backend="aot_eager")(*inputs)
        check(f"{self.name}, compiled", torch.equal(compiled, got))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            recorded = self.call(*inputs)
        others = [x.to(device) for x in self.make()]
        want = self.call(*others)
        for x, other in zip(inputs, others):
            x.copy_(other)
        graph.replay()
        check(f"{self.name}, replayed", torch.equal(recorded, want))


def cases(ops, device):
    """All of them; the packed weights are on the GPU and, for CPU tensors, on the CPU."""
    types = [torch.bfloat16, torch.float32, torch.float16]
    for i, name in enumerate(sorted(gpu_formats(ops))):
        n, k = 264, 512
        rows = ops.quantize(torch.randn(n, k) / 16, name)
        w, dtype = ops.dequantize(rows, name), types[i % 3]
        packed = {"cpu": ops.pack(rows, name), "cuda": ops.pack(rows, name, device=device)}
        decoded = ops.dequantize(rows.to(device), name)
        check(f"dequantize {name}", torch.allclose(decoded.cpu(), w, rtol=2e-3, atol=1e-6))
        bias = torch.randn(n)

        def linear(x, bias, packed=packed):
            return packed[x.device.type].linear(x, bias)

        def exact(x, bias, packed=packed):
            return packed[x.device.type]._replace(act="f32").linear(x, bias) if x.is_cuda else linear(x, bias)
        for m in (1, 7, 64, 200):
            yield Case(f"linear {name}, {m} rows, {dtype}", lambda m=m, t=dtype: (torch.randn(m, k).to(t), bias.to(t)),
                       linear, lambda x, b, w=w: x.double() @ w.double().T + b.double(), 8e-3)
        yield Case(f"linear {name}, all bits", lambda: (torch.randn(5, k), bias), exact,
                   lambda x, b, w=w: x.double() @ w.double().T + b.double(), 2e-3)
    for name in ("BF16", "Q4_K", "Q8_0", "MXFP4", "I4_128"):
        yield from expert_cases(ops, device, name)
    yield from attention_cases(ops)
    for dtype in types:
        def pair(d, t=dtype):
            return torch.randn(9, d).to(t), torch.randn(9, d).to(t)
        yield Case(f"silu_mul {dtype}", lambda pair=pair: pair(700), ops.silu_mul,
                   lambda a, b: torch.nn.functional.silu(a.double()) * b.double(), 4e-3)
        yield Case(f"rms_norm {dtype}", lambda t=dtype: (torch.randn(9, 704).to(t), torch.rand(704).to(t)),
                   lambda x, w: ops.rms_norm(x, w, 1e-5),
                   lambda x, w: torch.nn.functional.rms_norm(x.double(), (704,), w.double(), 1e-5), 4e-3)


def gpu_formats(ops):
    from ktransformers import cuda_ops, errors
    for name, format in ops.formats().items():
        try:
            cuda_ops.packed_bytes(name, 16, 2 * format.block_len)
        except errors.UsageError:
            continue
        yield name


def expert_cases(ops, device, name, n_experts=16, d_model=256, d_ff=512):
    shapes = (n_experts, d_ff, d_model), (n_experts, d_ff, d_model), (n_experts, d_model, d_ff)
    floats = [torch.randn(s) / 16 for s in shapes]
    rows = [ops.quantize(w, name) for w in floats]
    gate, up, down = (ops.dequantize(r, name).double() for r in rows)
    layers = {"cpu": ops.Experts(*rows, name), "cuda": ops.Experts(*rows, name, device=device)}

    def make(m):
        ids = torch.randint(-1, n_experts, (m, 4))
        ids[:, 0] = torch.arange(m) % n_experts
        return torch.randn(m, d_model).bfloat16(), ids, torch.rand(m, 4)

    def want(x, ids, weights):
        hidden = torch.einsum("efd,md->mef", gate, x.double())
        hidden = torch.nn.functional.silu(hidden) * torch.einsum("efd,md->mef", up, x.double())
        each = torch.einsum("edf,mef->med", down, hidden)
        chosen = each.gather(1, ids.clamp(min=0)[..., None].expand(-1, -1, d_model))
        return (chosen * (weights * (ids >= 0))[..., None].double()).sum(1)
    for m in (1, 4, 50):
        yield Case(f"moe {name}, {m} rows", lambda m=m: make(m),
                   lambda x, ids, weights: ops.moe(x, ids, weights, layers[x.device.type]), want, 1.2e-2)


def attention_cases(ops):
    """Four sequences, at different places in a cache in pages or in runs."""
    def reference(q, keys, values, lengths, starts, scale, window):
        out = []
        for s, n in enumerate(lengths.tolist()):
            rows = q[starts[s]:starts[s + 1]].double()
            k, v = keys[s, :n].double(), values[s, :n].double()
            group = q.shape[1] // k.shape[1]
            scores = torch.einsum("qhd,thd->hqt", rows, k.repeat_interleave(group, 1)) * scale
            position = torch.arange(n - rows.shape[0], n)[:, None]
            token = torch.arange(n)
            hidden = (token > position) | ((token <= position - window) if window else torch.zeros(1, dtype=torch.bool))
            weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
            out.append(torch.einsum("hqt,thd->qhd", weights, v.repeat_interleave(group, 1)))
        return torch.cat(out)

    def make(heads, kv_heads, dim, counts, room):
        lengths = torch.randint(max(counts), room + 1, (4,))
        q = torch.randn(sum(counts), heads, dim).bfloat16()
        return q, torch.randn(4 * room // PAGE, PAGE, kv_heads, dim).bfloat16(), lengths, torch.randperm(
            4 * room // PAGE).view(4, -1)

    def gathered(cache, table):
        return cache[table.flatten()].view(4, -1, *cache.shape[2:])
    for dim, heads, kv_heads, room, window in ((64, 8, 8, 256, 0), (128, 32, 4, 2048, 0), (128, 8, 2, 512, 100),
                                               (256, 8, 1, 512, 0), (96, 4, 2, 256, 0)):
        for counts in ((1, 1, 1, 1), (1, 70, 3, 20)):
            starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()])
            on_gpu = starts.cuda()

            def call(q, cache, lengths, table, counts=counts, starts=starts, on_gpu=on_gpu, window=window):
                ends = None if max(counts) == 1 else (on_gpu if q.is_cuda else starts)
                return ops.attention(q, cache, cache, lengths, table, ends, 0.1, window)
            yield Case(f"attention {dim}, {heads}/{kv_heads} heads, {max(counts)} rows, window {window}",
                       lambda a=(heads, kv_heads, dim, counts, room): make(*a), call,
                       lambda q, cache, lengths, table, starts=starts, window=window:
                       reference(q, gathered(cache, table), gathered(cache, table), lengths, starts, 0.1, window), 8e-3)
    starts = torch.arange(5)
    for runs in (False, True):
        def latent(q, cache, lengths, table, runs=runs):
            if runs:  # of one sequence after the other
                return ops.mla_decode(q, cache.view(4, -1, 576), lengths, 512, 0.06)
            return ops.mla_decode(q, cache[:, :, 0], lengths, 512, 0.06, table)

        def want(q, cache, lengths, table, runs=runs):
            keys = cache.view(4, -1, 1, 576) if runs else gathered(cache, table)
            return reference(q, keys, keys[..., :512], lengths, starts, 0.06, 0)
        yield Case(f"mla_decode, in {'runs' if runs else 'pages'}", lambda: make(16, 1, 576, (1, 1, 1, 1), 1024), latent,
                   want, 8e-3)


def current_device_stays(ops) -> None:
    """The first op on another GPU opens it."""
    for index in range(1, torch.cuda.device_count()):
        device = f"cuda:{index}"
        ops.rms_norm(torch.ones(1, 8, device=device), torch.ones(8, device=device))
        check(f"the current device after an op on {device}", torch.cuda.current_device() == 0)


def refusals(ops, errors, device) -> None:
    """What has to be said instead of done."""
    x, w = torch.randn(2, 512, device=device), ops.pack(torch.randn(64, 512), "Q4_K", device=device)
    on_cpu = ops.pack(torch.randn(64, 512), "Q4_K")
    for what, call in {
            "a packed weight of the CPU": lambda: ops.linear(x, on_cpu.data.to(device), "Q4_K", 64),
            "a packed weight of the GPU on the CPU": lambda: ops.linear(x.cpu(), w.data.cpu(), "Q4_K", 64),
            "another format": lambda: ops.linear(x, w.data, "Q4_0", 64),
            "tensors on two devices": lambda: ops.linear(x, on_cpu.data, "Q4_K", 64),
            "the same through torch.ops": lambda: torch.ops.ktransformers.linear(x, on_cpu.data, None, "Q4_K", 64, "q16"),
            "attention of rows without a sequence": lambda: ops.attention(
                x.view(2, 4, 128), *torch.zeros(2, 0, PAGE, 4, 128, device=device),
                torch.zeros(0, dtype=torch.int32, device=device), None,
                torch.zeros(1, dtype=torch.int32, device=device)),
            "quantize": lambda: ops.quantize(x, "Q8_0")}.items():
        try:
            call()
        except errors.UsageError:
            continue
        check(f"{what} is refused", False, "was not")
    check("a copy of a packed weight", torch.equal(w._replace(data=w.data.clone()).linear(x), w.linear(x)))
    check("floats that are on the GPU", ops.pack(torch.randn(64, 512, device=device)).linear(x).shape == (2, 64))


def speed(ops, device) -> None:
    """What a launch through Python costs, and a replayed one; for information."""
    n, k, layers = 4096, 4096, 32
    packed = [ops.pack(ops.quantize(torch.randn(n, k), "Q4_K"), "Q4_K", device=device) for _ in range(2)]
    x = torch.randn(1, k, dtype=torch.bfloat16, device=device)

    def step():
        y = x
        for i in range(layers):
            y = packed[i % 2].linear(y)
        return y
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for name, run in (("launched", step), ("replayed", graph.replay)):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(20):
            run()
        torch.cuda.synchronize()
        print(f"linear Q4_K 4096 x 4096, 1 row, {name}: {(time.perf_counter() - begin) / 20 / layers * 1e6:.1f} us")


def main() -> int:
    sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "build" / "python"))
    from ktransformers import cuda_ops, errors, ops
    torch.manual_seed(4)
    n_cases = 0
    current_device_stays(ops)
    for index in range(torch.cuda.device_count()):
        device = f"cuda:{index}"
        ops.rms_norm(torch.ones(1, 8, device=device), torch.ones(8, device=device))  # opens it
        for case in cases(ops, device) if index == 0 else list(cases(ops, device))[:6]:
            case.run(device, index == 0)
            n_cases += 1
        refusals(ops, errors, device)
    for block in re.findall(r"^```python gpu\n(.*?)^```", (ROOT / "docs/python-ops.md").read_text(), re.M | re.S):
        exec(compile(block, "python-ops.md", "exec"), {})
    speed(ops, "cuda:0")
    print(f"{n_cases} cases on {torch.cuda.get_device_name(0)}, PyTorch {torch.__version__}, {cuda_ops.plugin().path}: "
          f"{len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
