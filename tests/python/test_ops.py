"""ktransformers.ops against PyTorch on the dequantised weights, traced, compiled, and with wrong arguments."""
import math
import os
import subprocess
import sys
import threading

import pytest
import torch

from ktransformers import errors, ops
from support.bounds import linear_bound, moe_reference, relative_error

FORMATS = ["F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_XXS", "MXFP4", "I4_32", "I4_128",
           "F8_E4M3_B128"]
ISA = ops.compute().isa.split()
EPS = {torch.float32: 0.0, torch.bfloat16: 2 ** -8, torch.float16: 2 ** -11}


def in_bf16(format, n_rows):
    """Whether so many activations may be rounded to bfloat16 here."""
    return n_rows >= 32 and ("amx" in ISA or "bf16" in ISA and format in ("BF16", "F8_E4M3_B128"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


@pytest.mark.parametrize("act", ["f32", "q16", "q8"])
@pytest.mark.parametrize("format", FORMATS)
def test_linear(format, act):
    n, k = 51, 512
    rows = ops.quantize(torch.randn(n, k), format)
    w = ops.dequantize(rows, format)
    packed = ops.pack(rows, format, act)
    assert packed[1:] == (format, n, k, act)
    for n_rows in (1, 3, 40):
        x = torch.randn(n_rows, k)
        error = (packed.linear(x).double() - x.double() @ w.double().T).abs()
        assert (error <= linear_bound(x, w, act, in_bf16(format, n_rows))).all(), float(error.max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_linear_types_shapes_and_bias(dtype):
    w, bias = torch.randn(32, 256), torch.randn(32).to(dtype)
    packed = ops.pack(w, "Q8_0")
    w = ops.dequantize(ops.quantize(w, "Q8_0"), "Q8_0")
    x = torch.randn(2, 3, 256).to(dtype)
    got = packed.linear(x, bias)
    assert got.dtype == dtype and got.shape == (2, 3, 32)
    want = x.double() @ w.double().T + bias.double()
    bound = linear_bound(x.flatten(0, 1), w, "q16", False).view(want.shape) + (EPS[dtype] + 2 ** -22) * want.abs()
    assert ((got.double() - want).abs() <= bound).all()
    strided = torch.randn(6, 512).to(dtype)[::2, :256]
    assert torch.equal(packed.linear(strided), packed.linear(strided.contiguous()))
    transposed = torch.randn(256, 4).to(dtype).T
    assert torch.equal(packed.linear(transposed), packed.linear(transposed.contiguous()))
    assert packed.linear(torch.empty(0, 256).to(dtype)).shape == (0, 32)
    assert packed.linear(x[0, 0]).shape == (32,)


def test_floats_are_packed_as_they_are():
    w, x = torch.randn(20, 64).bfloat16(), torch.randn(2, 64)
    packed = ops.pack(w)
    assert packed.format == "BF16"
    assert torch.allclose(packed.linear(x), x @ w.float().T, rtol=1e-5, atol=1e-5)


def test_every_format_is_listed():
    listed = ops.formats()
    assert listed["Q4_K"] == ops.Format("Q4_K", 256, 144, True) and listed["Q4_K"].row_bytes(512) == 288
    for name in listed:
        k = listed[name].block_len * 2
        rows = ops.quantize(torch.randn(3, k), name)
        assert rows.shape == (3, listed[name].row_bytes(k))
        assert ops.dequantize(rows, name.lower()).shape == (3, k)


def test_nan_shows_and_stays_in_its_row():
    packed = ops.pack(torch.randn(16, 64), "Q8_0")
    x = torch.randn(3, 64)
    clean = packed.linear(x)
    x[1, 5] = math.nan
    got = packed.linear(x)
    assert got[1].isnan().any() and torch.equal(got[[0, 2]], clean[[0, 2]])
    ops.quantize(torch.full((1, 256), math.nan), "Q4_K")
    ops.quantize(torch.full((1, 256), math.inf), "Q4_0")


@pytest.mark.parametrize("call, said", [
    (lambda p, x: ops.linear(x, p.data, "Q9", 32), "'Q9' is none of F32"),
    (lambda p, x: ops.linear(x[:, :200], p.data, "Q4_K", 32), r"rows of 200 values; Q4_K has blocks of 256"),
    (lambda p, x: ops.linear(x, p.data, "Q4_K", 31), r"holds a weight of shape \[32, 256\]; \[31, 256\] is wanted"),
    (lambda p, x: ops.linear(x, p.data, "Q4_K", 0), "n: is 0"),
    (lambda p, x: ops.linear(x, p.data, "Q5_K", 32), "another CPU, format or activation type"),
    (lambda p, x: ops.linear(x, p.data[:-64], "Q4_K", 32), "another CPU, format or activation type"),
    (lambda p, x: ops.linear(x, p.data[:10], "Q4_K", 32), "was not made by ops.pack"),
    (lambda p, x: ops.linear(x, torch.zeros_like(p.data), "Q4_K", 32), "was not made by ops.pack"),
    (lambda p, x: ops.linear(x, p.data.float(), "Q4_K", 32), "packed: has elements of float32; wanted: uint8"),
    (lambda p, x: ops.linear(x.double(), p.data, "Q4_K", 32), "x: has elements of another type; wanted: float32"),
    (lambda p, x: ops.linear(x, p.data, "Q4_K", 32, torch.zeros(31)), r"bias: has shape \[31\]; \[32\] is wanted"),
    (lambda p, x: ops.linear(x, p.data, "Q4_K", 32, act="q4"), "q4"),
    (lambda p, x: ops.linear(None, p.data, "Q4_K", 32), "x: is NoneType; a tensor is wanted"),
    (lambda p, x: ops.linear(torch.tensor(1.0), p.data, "Q4_K", 32), r"x: has shape \[\]"),
    (lambda p, x: ops.pack(torch.zeros(4, 33), "Q8_0"), "rows of 33 values; Q8_0 has blocks of 32"),
    (lambda p, x: ops.pack(torch.zeros(4, 33, dtype=torch.uint8), "Q8_0"), "rows of 33 bytes; Q8_0 has blocks of 34"),
    (lambda p, x: ops.pack(torch.zeros(4, 34, dtype=torch.uint8)), "need the name of their format"),
    (lambda p, x: ops.pack(torch.zeros(2, 2, 34)), "2 dimensions are wanted"),
    (lambda p, x: ops.pack(torch.zeros(4, 32, dtype=torch.int32)), "elements of torch.int32"),
    (lambda p, x: ops.pack(torch.zeros(0, 32)), "at least 1"),
    (lambda p, x: ops.set_threads(-1), "-1 threads"),
    (lambda p, x: ops.rms_norm(x, torch.ones(3)), r"weight: has shape \[3\]; \[256\] is wanted"),
    (lambda p, x: ops.silu_mul(x, x[:1]), r"up: has shape \[1, 256\]; \[2, 256\] is wanted"),
])
def test_wrong_arguments(call, said):
    packed = ops.pack(torch.randn(32, 256), "Q4_K")
    with pytest.raises(errors.UsageError, match=said):
        call(packed, torch.randn(2, 256))


def test_a_packed_tensor_must_be_aligned():
    packed = ops.pack(torch.randn(32, 256), "Q4_K")
    moved = torch.empty(packed.data.numel() + 1, dtype=torch.uint8)[1:]
    moved.copy_(packed.data)
    with pytest.raises(errors.UsageError, match="multiple of 64; clone"):
        packed._replace(data=moved).linear(torch.randn(1, 256))
    copy = packed._replace(data=moved.clone())
    x = torch.randn(1, 256)
    assert torch.equal(copy.linear(x), packed.linear(x))


# Experts.

def experts(format=None, n_experts=6, d_model=128, d_ff=256, **options):
    floats = [torch.randn(n_experts, d_ff, d_model) / 8, torch.randn(n_experts, d_ff, d_model) / 8,
              torch.randn(n_experts, d_model, d_ff) / 8]
    if format is None:
        return ops.Experts(*floats, **options), floats
    rows = [ops.quantize(w, format) for w in floats]
    return ops.Experts(*rows, format, **options), [ops.dequantize(r, format) for r in rows]


@pytest.mark.parametrize("format, act, bound", [
    (None, "f32", 2e-6), ("Q8_0", "f32", 2e-6), ("Q4_0", "q16", 1e-4), ("MXFP4", "q16", 1e-4), ("Q8_0", "q8", 2e-2)])
def test_moe(format, act, bound):
    layer, weights = experts(format, act=act)
    assert (layer.n_experts, layer.d_model, layer.d_ff) == (6, 128, 256) and layer.weight_bytes > 0
    for n in (1, 7):
        x, ids, scores = torch.randn(n, 128), torch.randint(-1, 6, (n, 3)), torch.rand(n, 3)
        ids[0] = torch.tensor([0, -1, 5])
        got = ops.moe(x, ids, scores, layer)
        assert relative_error(got, moe_reference(x, ids, scores, *weights)) <= bound
        rounded = ops.moe(x.bfloat16(), ids.int(), scores, layer)
        assert rounded.dtype == torch.bfloat16
        assert relative_error(rounded, moe_reference(x.bfloat16(), ids, scores, *weights)) <= bound + 2 ** -8


def test_moe_counts_an_expert_as_often_as_it_is_named():
    layer, _ = experts("Q8_0")
    x = torch.randn(1, 128)
    twice = ops.moe(x, torch.tensor([[2, 5, 2, -1]]), torch.tensor([[0.25, 1.0, 0.5, 1.0]]), layer)
    assert torch.equal(twice, ops.moe(x, torch.tensor([[2, 5, -1, -1]]), torch.tensor([[0.75, 1.0, 1.0, 1.0]]), layer))


def test_moe_without_experts_is_zero():
    layer, _ = experts("Q8_0")
    assert not ops.moe(torch.randn(2, 128), torch.full((2, 3), -1), torch.rand(2, 3), layer).any()
    assert ops.moe(torch.empty(0, 128), torch.empty(0, 3).long(), torch.empty(0, 3), layer).shape == (0, 128)
    assert not ops.moe(torch.randn(2, 128), torch.empty(2, 0).long(), torch.empty(2, 0), layer).any()


def test_moe_rounds_weights_as_its_backend_says():
    torch.manual_seed(1)
    exact, weights = experts(act="f32")
    x, ids, scores = torch.randn(4, 128), torch.randint(0, 6, (4, 2)), torch.rand(4, 2)
    want = moe_reference(x, ids, scores, *weights)
    for backend, least, most in (("AMXInt8", 1e-3, 2e-2), ("AMXInt4", 2e-2, 0.3), ("AMXBF16", 1e-4, 1e-2)):
        layer = ops.Experts(*weights, backend=backend, act="f32")
        assert least < relative_error(ops.moe(x, ids, scores, layer), want) < most, backend


def test_moe_clamps_when_asked():
    torch.manual_seed(2)
    layer, weights = experts(act="f32", swiglu_limit=0.5)
    x, ids, scores = 2 * torch.randn(4, 128), torch.randint(0, 6, (4, 2)), torch.rand(4, 2)
    assert relative_error(ops.moe(x, ids, scores, layer), moe_reference(x, ids, scores, *weights, limit=0.5)) < 2e-6


def test_moe_wrong_arguments():
    layer, (gate, up, down) = experts()
    x, ids, scores = torch.randn(2, 128), torch.zeros(2, 3).long(), torch.rand(2, 3)
    for call, said in [
            (lambda: ops.moe(x, ids + 6, scores, layer), "ids: names expert 6 in row 0; there are 6"),
            (lambda: ops.moe(x[:, :64], ids, scores, layer), r"x: has shape \[2, 64\]; \[any, 128\] is wanted"),
            (lambda: ops.moe(x, ids[:1], scores, layer), r"ids: has shape \[1, 3\]; \[2, any\] is wanted"),
            (lambda: ops.moe(x, ids, scores[:, :2], layer), r"weights: has shape"),
            (lambda: ops.moe(x, ids.float(), scores, layer), "ids: has elements of float32; wanted: int32, int64"),
            (lambda: torch.ops.ktransformers.moe(x, ids, scores, 10 ** 6), "no layer has the number 1000000"),
            (lambda: ops.Experts(gate, up[:5], down), "up: has 5 experts; expert 5"),
            (lambda: ops.Experts(gate, up, down[:, :, :1]), r"down: has shape"),
            (lambda: ops.Experts(gate[:0], up, down), "num_experts: is 0"),
            (lambda: ops.Experts(gate, up, down, "Q8_0"), "floats have their own format"),
            (lambda: ops.Experts(gate.byte(), up, down), "rows of bytes need a format"),
            (lambda: ops.Experts(gate[0], up, down), r"gate: has shape \[256, 128\]")]:
        with pytest.raises(errors.UsageError, match=said):
            call()
    ops.moe(x, ids, torch.full((2, 3), math.nan), layer)


# Attention.

def attention_reference(q, k, v, scale, window=0):
    """q [n, heads, d], the last rows of k [tokens, kv_heads, d] and v; float64."""
    group = q.shape[1] // k.shape[1]
    k, v = k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,thd->hqt", q.double(), k) * scale
    position = torch.arange(k.shape[0] - q.shape[0], k.shape[0])[:, None]
    token = torch.arange(k.shape[0])
    hidden = (token > position) | ((token <= position - window) if window else False)
    return torch.einsum("hqt,thd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), v)


def cut(lengths, n_rows):
    starts = [0]
    for n in n_rows:
        starts.append(starts[-1] + n)
    return torch.tensor(lengths), torch.tensor(starts)


@pytest.mark.parametrize("cache_type", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("window", [0, 50])
def test_attention(cache_type, paged, window):
    lengths, n_rows = [300, 1, 77], [1, 1, 5]
    n_tokens, ends = cut(lengths, n_rows)
    k, v = torch.randn(3, 320, 2, 48).to(cache_type), torch.randn(3, 320, 2, 40).to(cache_type)
    q = torch.randn(7, 6, 48)
    table, k_cache, v_cache = None, k, v
    if paged:
        table = torch.randperm(15).view(3, 5)
        k_cache, v_cache = torch.empty(15, 64, 2, 48).to(cache_type), torch.empty(15, 64, 2, 40).to(cache_type)
        k_cache[table.flatten()] = k.view(15, 64, 2, 48)
        v_cache[table.flatten()] = v.view(15, 64, 2, 40)
    got = ops.attention(q, k_cache, v_cache, n_tokens, table, ends, window=window)
    for s, (length, rows) in enumerate(zip(lengths, n_rows)):
        part = slice(int(ends[s]), int(ends[s]) + rows)
        want = attention_reference(q[part], k[s, :length], v[s, :length], 48 ** -0.5, window)
        # Products and sums of 48 and 300 floats; weights are at most 1 in sum.
        assert (got[part].double() - want).abs().max() < 1e-4
    rounded = ops.attention(q.bfloat16(), k_cache, v_cache, n_tokens, table, ends, window=window)
    assert rounded.dtype == torch.bfloat16 and (rounded - got).abs().max() < 0.05


def test_attention_of_one_row_each_needs_no_starts():
    q, k, v = torch.randn(2, 4, 32), torch.randn(2, 10, 4, 32), torch.randn(2, 10, 4, 32)
    got = ops.attention(q, k, v, torch.tensor([10, 3]), scale=0.5)
    for s, n in enumerate((10, 3)):
        assert (got[s].double() - attention_reference(q[s:s + 1], k[s, :n], v[s, :n], 0.5)[0]).abs().max() < 1e-5
    strided = torch.randn(2, 10, 2, 4, 32)  # keys and values side by side
    assert torch.equal(ops.attention(q, strided[:, :, 0], strided[:, :, 1], torch.tensor([10, 3])),
                       ops.attention(q, strided[:, :, 0].clone(), strided[:, :, 1].clone(), torch.tensor([10, 3])))


def test_mla_decode():
    rank, rope, heads = 64, 16, 8
    latent = torch.randn(2, 128, rank + rope)
    q = torch.randn(2, heads, rank + rope)
    lengths = torch.tensor([100, 128])
    got = ops.mla_decode(q, latent, lengths, rank, 0.1)
    table = torch.tensor([[3, 0], [2, 1]])
    pages = torch.empty(4, 64, rank + rope)
    pages[table.flatten()] = latent.view(4, 64, -1)
    assert torch.equal(ops.mla_decode(q, pages, lengths, rank, 0.1, table), got)
    for s, n in enumerate(lengths.tolist()):
        keys = latent[s, :n, None]
        want = attention_reference(q[s:s + 1], keys, keys[..., :rank], 0.1)
        assert (got[s].double() - want[0]).abs().max() < 1e-4


def test_attention_wrong_arguments():
    q, k, v, n = torch.randn(2, 4, 32), torch.randn(2, 70, 2, 32), torch.randn(2, 70, 2, 32), torch.tensor([70, 3])
    table = torch.zeros(2, 1).int()
    pages = torch.randn(1, 64, 2, 32)
    for call, said in [
            (lambda: ops.attention(q, k, v, n + 1), "has 71 tokens; the cache has room for 70"),
            (lambda: ops.attention(q, k, v, n * 0), "its 1 query rows must be among them"),
            (lambda: ops.attention(q, k, v, n - 100), "must be among them"),
            (lambda: ops.attention(q, k, v, n[:1]), "query_starts: has shape"),
            (lambda: ops.attention(q, k[:1], v[:1], n), r"k_cache: has shape"),
            (lambda: ops.attention(q, k, v.half(), n), "v_cache: has elements of float16; wanted: float32"),
            (lambda: ops.attention(q, k, v[:, :, :1], n), "v_cache: has shape"),
            (lambda: ops.attention(q[:, :3], k, v, n), "q: has 3 heads; a multiple of the cache's 2"),
            (lambda: ops.attention(q[..., :31], k, v, n), "k_cache: has shape"),
            (lambda: ops.attention(q, k, v, n, query_starts=torch.tensor([0, 3, 2])), "rows 0 to 3"),
            (lambda: ops.attention(q, k, v, n, query_starts=torch.tensor([0, 1, 1])), "0 to 2 query rows is wanted"),
            (lambda: ops.attention(q, k, v, n, window=-1), "window: is -1"),
            (lambda: ops.attention(q, k, v, n, table), r"\[any, 64, any, any\] is wanted"),
            (lambda: ops.attention(q, pages, pages, n // 2, table + 1), "names page 1 for sequence 0; there are 1"),
            (lambda: ops.attention(q, pages, pages, n // 2, table - 1), "names page -1"),
            (lambda: ops.attention(q, pages, pages, n, table), "has 70 tokens; the cache has room for 64"),
            (lambda: ops.attention(q, k.transpose(-1, -2), v, n), "k_cache: is strided"),
            (lambda: ops.mla_decode(q, k[:, :, 0], n, 33, 1.0), "kv_lora_rank of 33 is wanted")]:
        with pytest.raises(errors.UsageError, match=said):
            call()


# Vector kernels.

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_and_silu_mul(dtype):
    x, y, weight = torch.randn(2, 3, 100).to(dtype), torch.randn(2, 3, 100).to(dtype), torch.rand(100).to(dtype)
    want = torch.nn.functional.rms_norm(x.double(), (100,), weight.double(), 1e-5)
    assert torch.allclose(ops.rms_norm(x, weight, 1e-5).double(), want, rtol=EPS[dtype] + 1e-6, atol=1e-6)
    want = torch.nn.functional.silu(x.double()) * y.double()
    assert torch.allclose(ops.silu_mul(x, y).double(), want, rtol=EPS[dtype] + 1e-6, atol=1e-6)


# As ops of PyTorch.

def samples():
    packed = ops.pack(torch.randn(32, 256), "Q4_K")
    layer, _ = experts("Q8_0")
    samples.layer = layer
    x = torch.randn(3, 256)
    cache, lengths = torch.randn(2, 10, 2, 32), torch.tensor([10, 3])
    return {
        "quantize": (x, "Q8_0"),
        "dequantize": (ops.quantize(x, "Q8_0"), "Q8_0"),
        "pack": (ops.quantize(x, "Q8_0"), "Q8_0", "q16"),
        "linear": (x, packed.data, torch.zeros(32), "Q4_K", 32, "q16"),
        "moe": (torch.randn(3, 128), torch.zeros(3, 2).long(), torch.rand(3, 2), layer.handle),
        "attention": (torch.randn(2, 4, 32), cache, cache.clone(), lengths, None, None, 1.0, 0),
        "mla_decode": (torch.randn(2, 4, 32), cache[:, :, 0].clone(), lengths, 16, None, None, 1.0),
        "rms_norm": (x, torch.ones(256), 1e-6),
        "silu_mul": (x, x.clone()),
    }


@pytest.mark.parametrize("name", ["quantize", "dequantize", "pack", "linear", "moe", "attention", "mla_decode",
                                  "rms_norm", "silu_mul"])
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.ktransformers, name).default, samples()[name])


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.packed = ops.pack(torch.randn(64, 64), "Q8_0")
        self.experts, _ = experts("Q8_0", d_model=64, d_ff=64)
        self.weight = torch.rand(64)

    def forward(self, x):
        x = ops.linear(ops.rms_norm(x, self.weight), self.packed.data, self.packed.format, self.packed.n)
        ids = x[:, :2].topk(2).indices
        return x + ops.silu_mul(ops.moe(x, ids, x[:, :2], self.experts), x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend):
    block = Block()
    compiled = torch.compile(block, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for n in (2, 5):
            x = torch.randn(n, 64)
            assert torch.equal(compiled(x), block(x))


def test_compile_to_code(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    packed = ops.pack(torch.randn(64, 64), "Q8_0")

    def block(x):
        return ops.linear(x * 2, packed.data, packed.format, packed.n) + 1

    with torch.no_grad():
        x = torch.randn(3, 64)
        assert torch.allclose(torch.compile(block, fullgraph=True)(x), block(x), rtol=1e-5, atol=1e-5)


def test_export():
    block, x = Block(), torch.randn(3, 64)
    program = torch.export.export(block, (x,))
    assert torch.equal(program.module()(x), block(x))


def test_there_are_no_gradients():
    packed = ops.pack(torch.randn(32, 256), "Q4_K")
    with pytest.raises((RuntimeError, NotImplementedError), match="autograd|backward"):
        packed.linear(torch.randn(1, 256, requires_grad=True)).sum().backward()


def test_threads():
    packed, x = ops.pack(torch.randn(64, 256), "Q4_K"), torch.randn(3, 256)
    before, want = ops.get_threads(), packed.linear(x)
    try:
        ops.set_threads(3)
        assert ops.get_threads() == 3
        got = []
        threads = [threading.Thread(target=lambda: got.append(packed.linear(x))) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(got) == 8 and all(torch.equal(g, want) for g in got)
    finally:
        ops.set_threads(before)


def test_registration_without_custom_op():
    """As in PyTorch 2.3."""
    code = """
import torch
del torch.library.custom_op
from ktransformers import ops
x, w = torch.randn(2, 64), torch.randn(8, 64)
packed = ops.pack(w)
assert torch.allclose(packed.linear(x), x @ w.T, atol=1e-4)
with torch.device("meta"):
    fake = ops.linear(torch.empty(5, 64), torch.empty(1, dtype=torch.uint8), "Q8_0", 8)
assert fake.shape == (5, 8)
"""
    env = {**os.environ, "PYTHONPATH": os.path.join(os.environ["KT_BUILD"], "python")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
