"""Files that kt reads and writes, against the gguf and safetensors packages and numpy references."""
import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from support.kt import run_kt

N, K = 48, 256
SMALL = {
    "model_type": "llama", "hidden_size": K, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "intermediate_size": N, "max_position_embeddings": 64,
}
UP = "model.layers.0.mlp.up_proj"


def tensors_of(path):
    """Name -> float32 array in row-major shape."""
    out = {}
    for t in gguf.GGUFReader(path).tensors:
        shape = [int(d) for d in reversed(t.shape)]
        out[t.name] = gguf.quants.dequantize(t.data, t.tensor_type).reshape(shape)
    return out


def to_f32(folder, tensors, config):
    """Writes a model folder, lets kt turn it into an F32 GGUF, and returns that file's tensors."""
    (folder / "config.json").write_text(json.dumps({**SMALL, **config}))
    save_file(tensors, folder / "model.safetensors")
    run_kt("quantize", folder, folder / "out.gguf", "--type", "F32")
    return tensors_of(folder / "out.gguf")


@pytest.fixture
def codes():
    rng = np.random.default_rng(3)
    return rng.integers(0, 16, (N, K)).astype(np.uint32)


def groups(rng_seed, size):
    """Zero points 1..15 and scales of an [N, K] weight in groups of `size` columns."""
    rng = np.random.default_rng(rng_seed)
    zeros = rng.integers(1, 16, (N, K // size)).astype(np.uint32)
    scales = rng.uniform(0.01, 1.0, (N, K // size)).astype(np.float16)
    return zeros, scales


def values(codes, zeros, scales, group_of):
    z, s = zeros[:, group_of].astype(np.float32), scales[:, group_of].astype(np.float32)
    return (codes.astype(np.float32) - z) * s


def pack(a, order=range(8)):
    """Eight 4-bit values of the last axis in an int32, value order[i] in nibble i."""
    a = a.reshape(*a.shape[:-1], -1, 8)
    word = np.zeros(a.shape[:-1], np.uint32)
    for nibble, column in enumerate(order):
        word |= a[..., column] << np.uint32(4 * nibble)
    return word.view(np.int32)


@pytest.mark.parametrize("size, act_order", [(32, False), (128, False), (64, True)])
def test_gptq(tmp_path, codes, size, act_order):
    zeros, scales = groups(1, size)
    group_of = np.arange(K) // size
    if act_order:
        group_of = np.random.default_rng(2).permutation(group_of)
    tensors = {
        UP + ".qweight": np.ascontiguousarray(pack(codes).T),
        UP + ".qzeros": pack(np.ascontiguousarray(zeros.T) - 1),
        UP + ".scales": np.ascontiguousarray(scales.T),
        UP + ".g_idx": group_of.astype(np.int32),
    }
    quant = {"quant_method": "gptq", "bits": 4, "group_size": size, "desc_act": act_order}
    got = to_f32(tmp_path, tensors, {"quantization_config": quant})
    np.testing.assert_array_equal(got["blk.0.ffn_up.weight"], values(codes, zeros, scales, group_of))


def test_awq(tmp_path, codes):
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    zeros, scales = groups(4, 64)
    tensors = {
        UP + ".qweight": pack(np.ascontiguousarray(codes.T), order),
        UP + ".qzeros": pack(np.ascontiguousarray(zeros.T), order),
        UP + ".scales": np.ascontiguousarray(scales.T),
    }
    quant = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
    got = to_f32(tmp_path, tensors, {"quantization_config": quant})
    np.testing.assert_array_equal(got["blk.0.ffn_up.weight"], values(codes, zeros, scales, np.arange(K) // 64))


def test_compressed_tensors(tmp_path, codes):
    _, scales = groups(5, 32)
    tensors = {
        UP + ".weight_packed": pack(codes),
        UP + ".weight_scale": scales,
        UP + ".weight_shape": np.array([N, K], np.int64),
    }
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    quant = {"quant_method": "compressed-tensors", "format": "pack-quantized",
             "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}}}
    got = to_f32(tmp_path, tensors, {"quantization_config": quant})
    eights = np.full((N, K // 32), 8, np.uint32)
    np.testing.assert_array_equal(got["blk.0.ffn_up.weight"], values(codes, eights, scales, np.arange(K) // 32))


def test_plain_types_and_rope_pairs(tmp_path):
    rng = np.random.default_rng(6)
    q = rng.standard_normal((K, K)).astype(np.float16)
    tensors = {"model.layers.0.self_attn.q_proj.weight": q,
               "model.norm.weight": rng.standard_normal(K).astype(np.float32)}
    got = to_f32(tmp_path, tensors, {})
    np.testing.assert_array_equal(got["output_norm.weight"], tensors["model.norm.weight"])
    paired = q.reshape(4, 2, K // 8, K).swapaxes(1, 2).reshape(K, K)  # as llama.cpp's converter orders the rows
    np.testing.assert_array_equal(got["blk.0.attn_q.weight"], paired.astype(np.float32))


@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2_lite", "deepseek_v3"])
def test_gguf_of_every_family_is_what_the_gguf_package_expects(tmp_path, root, name):
    config = root / "tests" / "data" / "golden_configs" / f"{name}.json"
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    run_kt("quantize", "--dummy", config, first, "--type", "F32")
    run_kt("quantize", first, second, "--type", "F32")
    a, b = gguf.GGUFReader(first), gguf.GGUFReader(second)
    arch = bytes(a.fields["general.architecture"].parts[-1]).decode()
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    known = {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[kind]}
    for t in a.tensors:
        parts = t.name.rsplit(".", 1)[0].split(".")
        pattern = "blk.{bid}." + ".".join(parts[2:]) if parts[0] == "blk" else parts[0]
        assert pattern in known, t.name
    assert [t.name for t in a.tensors] == [t.name for t in b.tensors]
    for x, y in zip(a.tensors, b.tensors):
        assert np.array_equal(x.data, y.data), x.name
    assert set(a.fields) == set(b.fields)


def test_damaged_files_end_with_one_line(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = path.read_bytes()
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        done = run_kt("inspect", path, check=False)
        assert done.returncode == 4, (size, done)
        assert done.stderr.count("\n") == 1 and "m.gguf" in done.stderr
