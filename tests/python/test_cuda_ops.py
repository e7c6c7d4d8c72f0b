"""ktransformers.cuda_ops without a GPU: the stand-in of the plug-in computes on host memory, so that tensors on the CPU
take the place of those on a GPU. tools/gpu_python.py compares the real kernels."""
import contextlib
import types

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ktransformers import _native, cuda_ops, errors, ops
from support.bounds import moe_reference, relative_error

EPS = {torch.float32: 2 ** -22, torch.bfloat16: 2 ** -8, torch.float16: 2 ** -11}


def use_plugin(monkeypatch, build, kind):
    monkeypatch.setenv("KT_GPU_PLUGIN", str(build / "src" / "backend" / "gpu" / f"libfake_gpu_{kind}.so"))
    monkeypatch.setattr(cuda_ops, "_gpus", {})
    cuda_ops.plugin.cache_clear()
    return cuda_ops.plugin()


@pytest.fixture
def gpu(build, monkeypatch):
    """The stand-in as the GPU that CPU tensors are on."""
    plugin = use_plugin(monkeypatch, build, "whole")
    device = _native.CudaDevice(plugin, 0)
    monkeypatch.setattr(cuda_ops, "_gpu", lambda _: device)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda_ops, "_packs", {})
    torch.manual_seed(3)
    yield device
    cuda_ops.plugin.cache_clear()


def packed(format, n, k):
    rows = ops.quantize(torch.randn(n, k), format)
    return cuda_ops.pack(rows, format, k), ops.dequantize(rows, format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", ["Q8_0", "Q4_K", "BF16"])
def test_linear(gpu, format, dtype):
    data, w = packed(format, 24, 256)
    bias = torch.randn(24).to(dtype)
    for x in (torch.randn(2, 3, 256), torch.randn(256), torch.randn(70, 512)[:, :256], torch.randn(256, 4).T):
        x = x.to(dtype)
        got = cuda_ops.linear(x, data, bias, format, 24, "q16")
        assert got.dtype == dtype and got.shape == (*x.shape[:-1], 24)
        want = x.bfloat16().double() @ w.double().T + bias.double()
        assert torch.allclose(got.double(), want, rtol=EPS[dtype], atol=2e-4)
        exact = cuda_ops.linear(x, data, None, format, 24, "f32")
        assert torch.allclose(exact.double(), x.double() @ w.double().T, rtol=EPS[dtype], atol=2e-4)
    assert cuda_ops.linear(torch.empty(0, 256), data, None, format, 24, "q16").shape == (0, 24)


def test_dequantize(gpu):
    rows = ops.quantize(torch.randn(2, 3, 256), "Q6_K")
    assert torch.equal(cuda_ops.dequantize(rows, "Q6_K", 256), ops.dequantize(rows, "Q6_K"))
    assert cuda_ops.dequantize(rows[:0], "Q6_K", 256).shape == (0, 3, 256)


def test_headers_are_known_or_read_once(gpu, monkeypatch):
    data, w = packed("Q8_0", 16, 64)
    x = torch.randn(1, 64)
    want = cuda_ops.linear(x, data, None, "Q8_0", 16, "q16")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(cuda_ops.linear(x, data.view(-1), None, "Q8_0", 16, "q16"), want)  # from pack
    copy = data.clone()
    with pytest.raises(errors.UsageError, match="packed: was not packed in this process .* use it before"):
        cuda_ops.linear(x, copy, None, "Q8_0", 16, "q16")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert torch.equal(cuda_ops.linear(x, copy, None, "Q8_0", 16, "q16"), want)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(cuda_ops.linear(x, copy, None, "Q8_0", 16, "q16"), want)  # known now
    monkeypatch.setattr(cuda_ops, "_sweep_at", 2)
    del copy
    cuda_ops.pack(ops.quantize(w, "Q8_0"), "Q8_0", 64)
    assert len(cuda_ops._packs) == 2  # without that of the copy


def test_a_buffer_that_is_filled_later_is_read_again(gpu):
    data, _ = packed("Q8_0", 16, 64)
    x, later = torch.randn(1, 64), torch.zeros_like(data)
    with pytest.raises(errors.UsageError, match="not made by"):
        cuda_ops.linear(x, later, None, "Q8_0", 16, "q16")
    later.copy_(data)
    assert torch.equal(cuda_ops.linear(x, later, None, "Q8_0", 16, "q16"),
                       cuda_ops.linear(x, data, None, "Q8_0", 16, "q16"))


def test_rows_that_are_one_row_again_and_again(gpu):
    data, _ = packed("Q8_0", 16, 64)
    x = torch.randn(1, 64).bfloat16()
    got = cuda_ops.linear(x.expand(5, 64), data, None, "Q8_0", 16, "q16")
    assert torch.equal(got, cuda_ops.linear(x.repeat(5, 1), data, None, "Q8_0", 16, "q16"))
    assert torch.equal(cuda_ops.silu_mul(x.expand(5, 64), x.expand(5, 64))[4:], cuda_ops.silu_mul(x, x))


@pytest.mark.parametrize("call, said", [
    (lambda p, x: cuda_ops.linear(x, p, None, "Q4_0", 32, "q16"), "another device, another CPU, format"),
    (lambda p, x: cuda_ops.linear(x, p, None, "Q8_0", 31, "q16"), r"holds a weight of shape \[32, 64\]; \[31, 64\]"),
    (lambda p, x: cuda_ops.linear(x, p[:-64], None, "Q8_0", 32, "q16"), "another device, another CPU, format"),
    (lambda p, x: cuda_ops.linear(x, p[:10], None, "Q8_0", 32, "q16"), "another device|not made by ops.pack"),
    (lambda p, x: cuda_ops.linear(x, torch.zeros(500, dtype=torch.uint8), None, "Q8_0", 32, "q16"), "not made by"),
    (lambda p, x: cuda_ops.linear(x, ops.pack(torch.zeros(32, 64), "Q8_0").data, None, "Q8_0", 32, "q16"),
     "another device, another CPU"),
    (lambda p, x: ops.linear(x, p, "Q8_0", 32), "another device, another CPU"),
    (lambda p, x: cuda_ops.linear(x, torch.cat((p[:1], p))[1:], None, "Q8_0", 32, "q16"), "packed: begins at an address"),
    (lambda p, x: cuda_ops.linear(x, p[:, None], None, "Q8_0", 32, "q16"), "packed: has shape"),
    (lambda p, x: cuda_ops.linear(x, p.float(), None, "Q8_0", 32, "q16"), "packed: has elements of float32"),
    (lambda p, x: cuda_ops.linear(x.double(), p, None, "Q8_0", 32, "q16"), "x: has elements of float64; wanted: float"),
    (lambda p, x: cuda_ops.linear(x, p, torch.zeros(31), "Q8_0", 32, "q16"), r"bias: has shape \[31\]; \[32\]"),
    (lambda p, x: cuda_ops.linear(x, p, None, "Q8_0", 0, "q16"), "n: is 0"),
    (lambda p, x: cuda_ops.linear(x, p, None, "Q8_0", 32, "q4"), "q4"),
    (lambda p, x: cuda_ops.linear(x, p.to("meta"), None, "Q8_0", 32, "q16"), "packed: is on meta, another argument on"),
    (lambda p, x: cuda_ops.rms_norm(x, torch.ones(3), 1e-6), r"weight: has shape \[3\]; \[64\] is wanted"),
    (lambda p, x: cuda_ops.silu_mul(x, x[:1]), r"up: has shape \[1, 64\]; \[2, 64\] is wanted"),
    (lambda p, x: cuda_ops.silu_mul(x, x.half().bfloat16()), "up: has elements of bfloat16; wanted: float32"),
    (lambda p, x: cuda_ops.quantize(x, "Q8_0"), "x: quantize: there is no CUDA kernel for it"),
    (lambda p, x: cuda_ops.pack(torch.zeros(0, 34, dtype=torch.uint8), "Q8_0", 32), "at least 1"),
])
def test_wrong_arguments(gpu, call, said):
    data, _ = packed("Q8_0", 32, 64)
    with pytest.raises(errors.UsageError, match=said):
        call(data, torch.randn(2, 64))


def rows_of(weights, format):
    rows = [ops.quantize(w, format) for w in weights]
    return rows, [ops.dequantize(r, format) for r in rows]


def layer_of(format="Q8_0", n_experts=4, d_model=64, d_ff=32):
    shapes = (n_experts, d_ff, d_model), (n_experts, d_ff, d_model), (n_experts, d_model, d_ff)
    rows, floats = rows_of([torch.randn(s) / 4 for s in shapes], format)
    f = ops.format_named(format)
    layer = cuda_ops.ExpertLayer(*rows, format, lambda r: r.shape[-1] // f.block_bytes * f.block_len,
                                 torch.device("cpu"))
    return layer, floats


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moe(gpu, dtype):
    layer, weights = layer_of()
    x, ids, scores = torch.randn(2, 3, 64).to(dtype), torch.randint(0, 4, (2, 3, 2)), torch.rand(2, 3, 2)
    ids[0, 0, 0], ids[0, 0, 1] = -1, 4  # left out
    got = cuda_ops.moe(x, ids, scores, layer)
    assert got.dtype == dtype and got.shape == x.shape and not got[0, 0].any()
    want = moe_reference(x.flatten(0, 1), ids.flatten(0, 1).where(ids.flatten(0, 1) < 4, -1), scores.flatten(0, 1),
                         *weights)
    assert relative_error(got.flatten(0, 1), want) < 0.01 + EPS[dtype]
    assert torch.equal(cuda_ops.moe(x.bfloat16(), ids.int(), scores.double(), layer),
                       cuda_ops.moe(x.bfloat16(), ids, scores, layer))
    assert not cuda_ops.moe(x, ids[..., :0], scores[..., :0], layer).any()
    for call, said in [
            (lambda: cuda_ops.moe(x[..., :32], ids, scores, layer), r"x: has shape \[6, 32\]; \[any, 64\]"),
            (lambda: cuda_ops.moe(x, ids[:1], scores, layer), r"ids: has shape \[3, 2\]; \[6, any\]"),
            (lambda: cuda_ops.moe(x, ids.float(), scores, layer), "ids: has elements of float32; wanted: int32, int64"),
            (lambda: layer_of(n_experts=0), "num_experts: is 0")]:
        with pytest.raises(errors.UsageError, match=said):
            call()


def test_experts_on_a_gpu_are_what_kernels_exist_for(gpu):
    x = torch.zeros(2, 32, 32)
    for options, said in [
            ({"backend": "AMXInt8"}, "backend: is 'AMXInt8'; there are CUDA kernels for 'llamafile' alone"),
            ({"swiglu_limit": 7.0}, "swiglu_limit: is 7.0"),
            ({"act": "f32"}, "act: is 'f32'; CUDA kernels for experts round"),
            ({"format": "Q8_0"}, "are floats, which have their own format")]:
        given = {"format": None, "backend": "llamafile", "act": "q16", "swiglu_limit": 0.0, **options}
        with pytest.raises(errors.UsageError, match=said):
            ops._experts_on_gpu((x, x, x), device=torch.device("cuda", 0), **given)
    with pytest.raises(errors.UsageError, match="gate, up, down: are BF16, F32; one format is wanted"):
        ops._experts_on_gpu((x, x, x.bfloat16()), None, "llamafile", "q16", 0.0, torch.device("cuda", 0))
    layer, _ = layer_of()
    layer.device = torch.device("cuda", 0)
    kept = ops.Experts.from_layer(layer)
    assert (kept.n_experts, kept.d_model, kept.d_ff, kept.format, kept.device) == (4, 64, 32, "Q8_0", layer.device)
    with pytest.raises(errors.UsageError, match="experts: are on cuda:0, x on cpu"):
        ops.moe(torch.randn(2, 64), torch.zeros(2, 1).long(), torch.rand(2, 1), kept)


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention(gpu, dtype, paged, window):
    k, v = torch.randn(3, 128, 2, 48).bfloat16(), torch.randn(3, 128, 2, 40).bfloat16()
    table, k_cache, v_cache = None, k, v
    if paged:
        table = torch.randperm(6).view(3, 2)
        k_cache, v_cache = torch.empty(6, 64, 2, 48).bfloat16(), torch.empty(6, 64, 2, 40).bfloat16()
        k_cache[table.flatten()], v_cache[table.flatten()] = k.view(6, 64, 2, 48), v.view(6, 64, 2, 40)
    lengths = torch.tensor([100, 2, 77])
    for starts, n in ((torch.tensor([0, 1, 3, 7]), 7), (None, 3)):
        q = torch.randn(n, 6, 48).bfloat16().to(dtype)
        got = cuda_ops.attention(q, k_cache, v_cache, lengths, table, starts, 0.2, window)
        want = ops.attention(q, k_cache, v_cache, lengths, table, starts, 0.2, window)
        assert got.dtype == dtype and torch.allclose(got.float(), want.float(), rtol=EPS[dtype], atol=2e-3)
    assert torch.equal(cuda_ops._items(lengths, None), cuda_ops._items(lengths, torch.arange(4)))
    assert cuda_ops.attention(q[:0], k_cache, v_cache, lengths, table, torch.zeros(4).int(), 0.2, 0).shape == (0, 6, 40)


@pytest.mark.parametrize("rank, rope", [(512, 64), (64, 16)])
def test_mla_decode(gpu, rank, rope):
    pages, table = torch.randn(4, 64, rank + rope).bfloat16(), torch.tensor([[3, 0], [2, 1]])
    q, lengths = torch.randn(2, 4, rank + rope).bfloat16(), torch.tensor([100, 128])
    got = ops._mla_decode_cuda(q, pages, lengths, rank, table, None, 0.1)
    assert torch.allclose(got.float(), ops.mla_decode(q, pages, lengths, rank, 0.1, table).float(), atol=0.03)


def test_attention_wrong_arguments(gpu):
    q, n = torch.randn(2, 4, 32), torch.tensor([64, 3])
    k, v = torch.randn(2, 64, 2, 32).bfloat16(), torch.randn(2, 64, 2, 32).bfloat16()
    wide = torch.randn(2, 64, 1, 576).bfloat16()

    def attend(q=q, k=k, v=v, n=n, table=None, starts=None, window=0):
        return cuda_ops.attention(q, k, v, n, table, starts, 1.0, window)
    attend()
    for call, said in [
            (lambda: attend(k=k.float()), "k_cache: has elements of float32; wanted: bfloat16"),
            (lambda: attend(k=k[:, :60], v=v[:, :60]), "60 tokens for each sequence; on a GPU a multiple of 64"),
            (lambda: attend(q=q[:, :3]), "q: has 3 heads; a multiple of the cache's 2"),
            (lambda: attend(q=q[..., :31]), "k_cache: has shape"),
            (lambda: attend(n=n[:1]), r"lengths: has shape \[1\]; \[2\] is wanted, or query_starts"),
            (lambda: attend(starts=torch.arange(2)), r"query_starts: has shape \[2\]; \[3\] is wanted"),
            (lambda: attend(k=k[:1], v=v[:1]), "k_cache: has shape"),
            (lambda: attend(window=-1), "window: is -1"),
            (lambda: attend(table=torch.zeros(1, 1).int()), r"items: has shape|block_table"),
            (lambda: attend(k=k[..., 1:], v=v, q=q[..., 1:]), "no multiples of 16"),
            (lambda: attend(q=torch.randn(2, 4, 576), k=wide, v=wide.clone()[..., :512]), "beginning of the keys"),
            (lambda: attend(n=n.to("meta")), "lengths: is on meta")]:
        with pytest.raises(errors.UsageError, match=said):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_and_silu_mul(gpu, dtype):
    x, y, weight = torch.randn(2, 3, 100).to(dtype), torch.randn(2, 3, 100).to(dtype), torch.rand(100).to(dtype)
    want = torch.nn.functional.rms_norm(x.double(), (100,), weight.double(), 1e-5)
    assert torch.allclose(cuda_ops.rms_norm(x, weight, 1e-5).double(), want, rtol=EPS[dtype] + 1e-6, atol=1e-6)
    want = torch.nn.functional.silu(x.double()) * y.double()
    for up in (y, torch.cat((y, y), -1)[..., :100]):
        assert torch.allclose(cuda_ops.silu_mul(x, up).double(), want, rtol=EPS[dtype] + 1e-6, atol=1e-6)
    assert cuda_ops.silu_mul(x[:0], y[:0]).shape == cuda_ops.rms_norm(x[:0], weight, 1e-5).shape == (0, 3, 100)


def test_what_is_missing_is_said(build, monkeypatch):
    monkeypatch.delenv("KT_GPU_PLUGIN", raising=False)
    with pytest.raises(errors.NotFoundError, match=r"libkt_cuda.so: .* \./dev gpu-build makes it, KT_GPU_PLUGIN names"):
        _native.GpuPlugin("/nowhere")
    with pytest.raises(errors.UnsupportedError, match="of another build"):
        use_plugin(monkeypatch, build, "other_version")
    none = use_plugin(monkeypatch, build, "no_gpu")
    with pytest.raises(errors.NotFoundError, match="there is no such GPU: no NVIDIA driver"):
        _native.CudaDevice(none, 0)
    cuda_ops.plugin.cache_clear()


def test_first_use_of_a_gpu_is_not_recorded(build, monkeypatch):
    use_plugin(monkeypatch, build, "whole")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(errors.UsageError, match="cuda:1: is first used while a graph is recorded"):
        cuda_ops._gpu(torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    gpu = cuda_ops._gpu(torch.device("cuda", 1))
    assert gpu.name == "Stand-in GPU" and not gpu.has_blas
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert cuda_ops._gpu(torch.device("cuda", 1)) is gpu
    cuda_ops.plugin.cache_clear()


def test_shapes_and_devices_are_checked_while_tracing(build, monkeypatch):
    use_plugin(monkeypatch, build, "whole")
    here = torch.empty(2, 64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, data = torch.empty(2, 64, device="cuda"), torch.empty(1, dtype=torch.uint8, device="cuda")
        y = ops.linear(x, data, "Q8_0", 32)
        assert y.shape == (2, 32) and y.device.type == "cuda"
        assert ops.rms_norm(x, x[0]).device.type == "cuda"
        packed = ops.pack(torch.empty(32, 68, dtype=torch.uint8, device="cuda"), "Q8_0")
        assert packed.data.shape == (256 + 32 * 68,) and packed.device.type == "cuda" and packed.k == 64
        for call, said in [
                (lambda: ops.linear(x, torch.empty(1, dtype=torch.uint8), "Q8_0", 32), "packed: is on cpu, x on cuda"),
                (lambda: ops.linear(x, data, "Q8_0", 32, torch.empty(32)), "bias: is on cpu, x on cuda"),
                (lambda: ops.silu_mul(x, torch.empty(2, 64)), "up: is on cpu"),
                (lambda: ops.rms_norm(x, torch.empty(64)), "weight: is on cpu"),
                (lambda: ops.moe(x, torch.empty(2, 1).long(), x, None), "ids: is on cpu"),
                (lambda: ops.attention(x[None], x[None, None], x[None, None], torch.empty(1).int()), "lengths: is on")]:
            with pytest.raises(errors.UsageError, match=said):
                call()
    assert ops.rms_norm(here, here[0]).device.type == "cpu"
    cuda_ops.plugin.cache_clear()
