"""KTMoEWrapper against a plain MoE in PyTorch on the weights of each checkpoint format."""
import math
import threading

import pytest
import torch

import ktransformers
from ktransformers import KTMoEWrapper, errors
from support import expert_checkpoints as checkpoints
from support.bounds import moe_reference, relative_error

E, K, H, I = 6, 3, 128, 256
ACT_ERROR = 1e-4  # of three products with activations of 15 bits


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(3)
    yield
    KTMoEWrapper.clear_buffer_cache()


def make(folder="", method="BF16", layer=1, **options):
    values = dict(num_experts=E, num_experts_per_tok=K, hidden_size=H, moe_intermediate_size=I, gpu_experts_mask=None,
                  cpuinfer_threads=2, threadpool_count=1, chunked_prefill_size=512)
    return KTMoEWrapper(layer_idx=layer, weight_path=str(folder), method=method, **(values | options))


def inputs(n, dtype=torch.float32):
    return torch.randn(n, H).to(dtype), torch.rand(n, E).topk(K).indices, torch.rand(n, K)


def reference(held, x, ids, weights, **options):
    return moe_reference(x, ids, weights, *(held[p] for p in checkpoints.PROJECTIONS), **options)


WRITERS = {
    "BF16": checkpoints.write_bf16,
    "BF16 fused": checkpoints.write_fused,
    "BF16 mixtral": lambda folder, w: checkpoints.write_bf16(
        folder, w, prefix="model.layers.{}.block_sparse_moe.experts", names=checkpoints.MIXTRAL),
    "BF16 nested": lambda folder, w: checkpoints.write_bf16(
        folder, w, prefix="model.language_model.layers.{}.mlp.experts"),
    "FP8": checkpoints.write_fp8,
    "FP8_PERCHANNEL": checkpoints.write_fp8_rows,
    "RAWINT4": checkpoints.write_rawint4,
    "RAWINT4 bytes": lambda folder, w: checkpoints.write_rawint4(folder, w, as_bytes=True),
    "GPTQ_INT4": checkpoints.write_gptq,
    "MXFP4": checkpoints.write_mxfp4,
    "LLAMAFILE": checkpoints.write_gguf,
    "LLAMAFILE F16": lambda folder, w: checkpoints.write_gguf(folder, w, gate_up="F16", down="BF16"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_weights_as_stored(case, tmp_path):
    held = WRITERS[case](tmp_path, checkpoints.random_experts(E, H, I))
    wrapper = make(tmp_path, case.split()[0])
    wrapper.load_weights(torch.arange(E))
    for n in (1, 20):
        x, ids, weights = inputs(n)
        assert relative_error(wrapper.forward(x, ids, weights), reference(held, x, ids, weights)) < ACT_ERROR
        x = x.bfloat16()
        got = wrapper.forward(x, ids.int(), weights.bfloat16(), 0)
        assert got.dtype == torch.bfloat16 and got.shape == x.shape
        assert relative_error(got, reference(held, x, ids, weights.bfloat16())) < 2 ** -8


@pytest.mark.parametrize("method, bits, bound", [("AMXINT8", 8, 0.05), ("AMXINT4", 4, 0.35), ("MOE_INT8", 8, 0.05)])
@pytest.mark.parametrize("source", ["tensors", "BF16", "FP8", "gguf"])
def test_requantised(method, bits, bound, source, tmp_path):
    experts = checkpoints.random_experts(E, H, I)
    wrapper = make(tmp_path, method)
    if source == "tensors":
        held = {p: w.bfloat16().float() for p, w in experts.items()}
        wrapper.load_weights_from_tensors(*(experts[p].bfloat16() for p in checkpoints.PROJECTIONS), torch.arange(E))
    else:
        write = {"BF16": checkpoints.write_bf16, "FP8": checkpoints.write_fp8, "gguf": checkpoints.write_gguf}[source]
        held = write(tmp_path, experts)
        wrapper.load_weights()
    x, ids, weights = inputs(9)
    got = wrapper.forward(x, ids, weights)
    rounded = {p: checkpoints.rounded_rows(w, bits) for p, w in held.items()}
    # A weight that falls between two levels may go to either: float32 here, a product with 1 / scale there.
    assert relative_error(got, reference(rounded, x, ids, weights)) < 3e-3
    assert relative_error(got, reference(held, x, ids, weights)) < bound


def test_bf16_from_tensors():
    experts = checkpoints.random_experts(E, H, I)
    wrapper = make(method="BF16")
    wrapper.load_weights_from_tensors(*experts.values(), None)
    x, ids, weights = inputs(2)
    held = {p: w.bfloat16().float() for p, w in experts.items()}
    assert relative_error(wrapper.forward(x, ids, weights), reference(held, x, ids, weights)) < ACT_ERROR


def test_experts_can_be_mapped(tmp_path):
    held = checkpoints.write_bf16(tmp_path, checkpoints.random_experts(E, H, I))
    mapping = torch.tensor([5, 4, 3, 2, 1, 0, 0, 5])
    wrapper = make(tmp_path, num_experts=8)
    wrapper.load_weights(mapping)
    x, ids, weights = torch.randn(4, H), torch.randint(0, 8, (4, K)), torch.rand(4, K)
    assert relative_error(wrapper.forward(x, ids, weights), reference(held, x, mapping[ids], weights)) < ACT_ERROR


def test_swiglu_limit(tmp_path):
    held = checkpoints.write_mxfp4(tmp_path, checkpoints.random_experts(E, H, I))
    wrapper = make(tmp_path, "MXFP4", swiglu_limit=0.5)
    wrapper.load_weights()
    x, ids, weights = inputs(5)
    assert relative_error(wrapper.forward(x, ids, weights), reference(held, x, ids, weights, limit=0.5)) < ACT_ERROR


@pytest.fixture
def loaded():
    """Two layers and their weights, nothing deferred."""
    layers = []
    for layer in (1, 2):
        experts = checkpoints.random_experts(E, H, I)
        wrapper = make(method="BF16", layer=layer)
        wrapper.load_weights_from_tensors(*experts.values())
        layers.append((wrapper, {p: w.bfloat16().float() for p, w in experts.items()}))
    return layers


def test_masked_and_missing_experts_add_nothing(loaded):
    wrapper, held = loaded[0]
    x, ids, weights = inputs(6)
    ids[0] = -1
    ids[1, 1] = E + 3
    wrapper.gpu_experts_mask[2] = True  # while it is in use
    got = wrapper.forward(x, ids, weights)
    left = ids.masked_fill((ids == 2) | (ids >= E), -1)
    assert not got[0].any()
    assert relative_error(got, reference(held, x, left, weights)) < ACT_ERROR
    masked = make(method="BF16", gpu_experts_mask=torch.arange(E) == 2)
    assert masked.num_gpu_experts == 1 and masked.gpu_experts_mask.tolist() == wrapper.gpu_experts_mask.tolist()


def test_chunks_are_computed_like_one(loaded):
    wrapper, _ = loaded[0]
    x, ids, weights = inputs(20)
    whole = wrapper.forward(x, ids, weights)
    wrapper.chunked_prefill_size = 7
    assert torch.equal(wrapper.forward(x, ids, weights), whole)
    assert wrapper.forward(x[:0], ids[:0], weights[:0]).shape == (0, H)
    assert torch.equal(wrapper.forward(x.view(4, 5, H), ids, weights), whole.view(4, 5, H))


def test_submit_returns_before_the_work_is_done(loaded):
    (first, held), (second, _) = loaded
    x, ids, weights = inputs(3)
    gate = threading.Event()
    KTMoEWrapper._worker.submit(gate.wait)
    first.submit_forward(x, ids, weights, None)
    second.submit_forward(x, ids, weights)
    want = reference(held, x, ids, weights)
    shape = x.clone()
    x.zero_(), ids.zero_(), weights.zero_()  # the caller's again
    gate.set()
    assert relative_error(first.sync_forward(shape, None), want) < ACT_ERROR
    assert second.sync_forward(shape).shape == shape.shape


def test_deferred_experts_come_one_layer_later(loaded):
    (first, held_1), (second, held_2) = loaded
    first.max_deferred_experts_per_token = 1
    x, ids, weights = inputs(5)
    now, later = first.select_deferred_experts(ids, weights, K - 1)
    assert ((now >= 0).sum(1) == K - 1).all() and ((later >= 0).sum(1) == 1).all()
    assert torch.equal(torch.where(now >= 0, now, later), ids)
    assert (weights.masked_fill(now < 0, math.inf).amin(1) >= weights.masked_fill(later < 0, 0).amax(1)).all()
    assert relative_error(first.forward(x, ids, weights), reference(held_1, x, now, weights)) < ACT_ERROR
    y, ids_2, weights_2 = inputs(5)
    want = reference(held_2, y, ids_2, weights_2) + reference(held_1, x, later, weights)
    assert relative_error(second.forward(y, ids_2, weights_2), want) < ACT_ERROR
    again = second.forward(y, ids_2, weights_2)  # taken once
    assert relative_error(again, reference(held_2, y, ids_2, weights_2)) < ACT_ERROR


def test_all_or_none_can_be_deferred(loaded):
    wrapper, _ = loaded[0]
    _, ids, weights = inputs(2)
    now, later = wrapper.select_deferred_experts(ids, weights, 0)
    assert (now == -1).all() and torch.equal(later, ids)
    now, later = wrapper.select_deferred_experts(ids, weights, 99)
    assert (later == -1).all() and torch.equal(now, ids)


def test_deferred_rows_must_be_the_next_layers(loaded):
    (first, _), (second, _) = loaded
    first.max_deferred_experts_per_token = 1
    first.forward(*inputs(5))
    with pytest.raises(errors.UsageError, match="has 4 rows; the experts that layer 1 deferred have 5"):
        second.forward(*inputs(4))
    second.forward(*inputs(4))


def test_gpu_experts_masks():
    use = torch.tensor([[1., 9, 3], [8, 2, 7]])
    assert ktransformers.generate_gpu_experts_masks(use, 3).tolist() == [[False, True, False], [True, False, True]]
    assert not ktransformers.generate_gpu_experts_masks(use, 0).any()
    assert ktransformers.generate_gpu_experts_masks(use, 99).all()
    with pytest.raises(errors.UsageError, match="activation_freq"):
        ktransformers.generate_gpu_experts_masks(use[0], 1)


def test_the_original_name():
    import ktransformers.kt_kernel  # noqa: F401
    import kt_kernel
    assert kt_kernel.KTMoEWrapper is KTMoEWrapper
    assert kt_kernel.generate_gpu_experts_masks is ktransformers.generate_gpu_experts_masks


def test_settings_of_all_layers():
    KTMoEWrapper.set_capture_batch_sizes([1, 2, 4])
    assert KTMoEWrapper.get_capture_batch_sizes() == [1, 2, 4]
    KTMoEWrapper.set_capture_batch_sizes([])
    KTMoEWrapper.clear_buffer_cache()
    KTMoEWrapper.clear_sft_buffer_cache()


@pytest.mark.parametrize("options, error, said", [
    (dict(mode="sft"), errors.UnsupportedError, "mode: 'sft' is not here"),
    (dict(method="MXFP8"), errors.UnsupportedError, "method: 'MXFP8' is none of AMXINT4"),
    (dict(cpu_save=True), errors.UnsupportedError, "cpu_save: packed weights belong to one CPU"),
    (dict(swiglu_alpha=1.7), errors.UnsupportedError, "swiglu_alpha"),
    (dict(swiglu_limit=7.0), errors.UnsupportedError, "only MXFP4"),
    (dict(chunked_prefill_size=0), errors.UsageError, "chunked_prefill_size: is 0"),
    (dict(max_deferred_experts_per_token=4), errors.UsageError, "is 4; 0 to 3"),
    (dict(gpu_experts_mask=torch.zeros(5)), errors.UsageError, r"gpu_experts_mask: has shape \[5\]; \[6\]"),
    (dict(threadpool_count=0), errors.UsageError, "threadpool_count: is 0"),
    (dict(threadpool_count=2, numa_nodes=[0]), errors.UsageError, "numa_nodes: names 1 nodes"),
    (dict(numa_nodes=[977]), errors.UsageError, "NUMA node 977"),
    (dict(cpuinfer_threads=-2), errors.UsageError, "-2 threads"),
])
def test_wrong_parameters(options, error, said):
    with pytest.raises(error, match=said):
        make(**({"method": "BF16"} | options))


def test_more_pools_than_nodes_are_told():
    with pytest.warns(UserWarning, match="threadpool_count: 900 NUMA nodes are asked for"):
        make(method="BF16", threadpool_count=900)


def test_wrong_inputs(loaded):
    wrapper, _ = loaded[0]
    x, ids, weights = inputs(2)
    for call, error, said in [
            (lambda: wrapper.forward(x, ids, weights, 140213), errors.UnsupportedError, "cuda_stream: is 140213"),
            (lambda: wrapper.sync_forward(x, 7), errors.UnsupportedError, "cuda_stream"),
            (lambda: wrapper.sync_forward(x), errors.UsageError, "nothing was submitted"),
            (lambda: wrapper.forward(x[:, :5], ids, weights), errors.UsageError, r"hidden_states: has shape \[2, 5\]"),
            (lambda: wrapper.forward(x, ids[:1], weights), errors.UsageError, r"topk_ids: has shape \[1, 3\]; \[2,"),
            (lambda: wrapper.forward(x, ids, weights[:, :2]), errors.UsageError, r"topk_weights: has shape \[2, 2\]"),
            (lambda: wrapper.forward(x.to("meta"), ids, weights), errors.UsageError, "states: is on device meta"),
            (lambda: wrapper.forward(x.double(), ids, weights), errors.UsageError, "x: has elements of another type"),
            (lambda: wrapper.forward(x, None, weights), errors.UsageError, "topk_ids: is NoneType"),
            (lambda: make().forward(x, ids, weights), errors.UsageError, "nothing is loaded"),
            (lambda: wrapper.submit_write_weight_scale_to_buffer(1, 0, [], [], [], []), errors.UnsupportedError,
             "layer-wise prefill"),
            (wrapper.sync_write_weight_scale_to_buffer, errors.UnsupportedError, "layer-wise prefill")]:
        with pytest.raises(error, match=said):
            call()
    nan = wrapper.forward(x * math.nan, ids, weights)
    assert nan.isnan().all()


def test_wrong_weights(tmp_path):
    experts = checkpoints.random_experts(E, H, I)
    bf16, fp8, packed = tmp_path / "bf16", tmp_path / "fp8", tmp_path / "packed"
    gguf, gptq, empty = tmp_path / "gguf", tmp_path / "gptq", tmp_path / "empty"
    checkpoints.write_bf16(bf16, experts)
    checkpoints.write_fp8(fp8, experts)
    checkpoints.write_gguf(gguf, experts)
    checkpoints.write_gptq(gptq, experts)
    empty.mkdir()
    checkpoints.save(packed, {"blk.1.ffn_up_exps.0.numa.0.weight": torch.zeros(4)})
    for wrapper, error, said in [
            (make(bf16, layer=2), errors.NotFoundError, "holds no routed experts of layer 2"),
            (make(bf16, num_experts=7), errors.NotFoundError, r"holds no weights .*experts\.6\.gate_proj"),
            (make(bf16, hidden_size=64), errors.MismatchError, r"\[256, 128\]"),
            (make(bf16, moe_intermediate_size=-1), errors.UsageError, "moe_intermediate_size: is -1"),
            (make(bf16, "RAWINT4"), errors.MismatchError, "holds BF16 weights; method RAWINT4 is for I4_32"),
            (make(bf16, "LLAMAFILE"), errors.MismatchError, "holds safetensors files; method LLAMAFILE reads GGUF"),
            (make(gguf, "FP8"), errors.MismatchError, "holds GGUF files; method FP8 reads safetensors"),
            (make(gguf, "LLAMAFILE", num_experts=7), errors.BadFileError, r"\[7, n_out, n_in\] is wanted"),
            (make(fp8, "BF16"), errors.KtError, "FP8"),
            (make(gptq, "BF16"), errors.KtError, "packed as gptq"),
            (make(packed, "AMXINT8"), errors.UnsupportedError, "packed for one CPU"),
            (make(empty), errors.NotFoundError, "neither .safetensors nor .gguf"),
            (make(tmp_path / "nowhere"), errors.NotFoundError, "no such file or folder"),
            (make(""), errors.UsageError, "weight_path: is empty")]:
        with pytest.raises(error, match=said):
            wrapper.load_weights()
        with pytest.raises(errors.UsageError, match="nothing is loaded"):
            wrapper.forward(*inputs(1))
    with pytest.raises(errors.UsageError, match="has 2 entries; 6 are wanted"):
        make(bf16).load_weights(torch.tensor([0, 1]))
    with pytest.raises(errors.UsageError, match="names expert -1"):
        make(bf16).load_weights(torch.arange(E) - 1)
    with pytest.raises(errors.UnsupportedError, match="FP8 reads weights as they are stored"):
        make(fp8, "FP8").load_weights_from_tensors(*experts.values())
    with pytest.raises(errors.UsageError, match="up: has shape"):
        make(method="AMXINT8").load_weights_from_tensors(experts["gate_proj"], experts["down_proj"],
                                                         experts["down_proj"])


def test_files_can_be_released(tmp_path):
    checkpoints.write_bf16(tmp_path, checkpoints.random_experts(E, H, I))
    wrapper = make(tmp_path)
    wrapper.load_weights()
    wrapper.force_release_loader()
    (tmp_path / "model.safetensors").unlink()
    wrapper.forward(*inputs(1))
