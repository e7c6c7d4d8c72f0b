"""Bit-for-bit comparison of the scalar codecs with the `gguf` package's quants module.

Runs the test tool $KT_BUILD/bin/format_codec over random blocks and random values.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
from gguf import quants  # noqa: E402
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type  # noqa: E402

TOOL = Path(os.environ.get("KT_BUILD", "build")) / "bin" / "format_codec"
N_BLOCKS = 400
SEED = 20240611

# Byte offsets of the fp16 scales of a block; the rest of a block may hold any bits.
FP16_AT = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ1_S": [0], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "Q1_0": [0],
    "IQ1_M": [], "MXFP4": [], "NVFP4": [],
}
DECODED = ["F32", "F16", "BF16", *FP16_AT]
NOT_WEIGHTS = {"I8", "I16", "I32", "I64", "F64"}
# What the package lists and cannot decode.
NOT_DECODED = {"Q8_1", "Q8_K", "Q1_0"}
HF_FORMATS = {"F8_E4M3", "F8_E4M3_B128", "I4_32", "I4_64", "I4_128"}
ENCODED_EXACTLY = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]


def codec(verb, name, n, data, n_rows=1):
    run = subprocess.run([TOOL, verb, name, str(n), str(n_rows)], input=data, capture_output=True,
                         timeout=300, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


def decode(name, n, blocks):
    return np.frombuffer(codec("decode", name, n, blocks.tobytes()), np.float32)


def finite_halves(rng, shape):
    """Random fp16 bit patterns without infinities and NaN, subnormals and both zeros included."""
    bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype(np.uint16)


def random_blocks(name, rng):
    block_len, block_bytes = GGML_QUANT_SIZES[Type[name]]
    if name == "F32":
        bits = rng.integers(0, 1 << 32, (N_BLOCKS, 1), dtype=np.uint64).astype(np.uint32)
        return np.where((bits >> 23) & 0xFF == 0xFF, bits & 0x807FFFFF, bits).view(np.uint8)
    if name == "F16":
        return np.arange(1 << 16, dtype=np.uint16)[
            (np.arange(1 << 16) & 0x7C00) != 0x7C00].reshape(-1, 1).view(np.uint8)
    if name == "BF16":
        return np.arange(1 << 16, dtype=np.uint16).reshape(-1, 1).view(np.uint8)
    blocks = rng.integers(0, 256, (N_BLOCKS, block_bytes), dtype=np.uint8)
    for at in FP16_AT[name]:
        blocks[:, at:at + 2] = finite_halves(rng, (N_BLOCKS, 1)).view(np.uint8)
    if name == "IQ1_M":  # its fp16 scale is spread over the top nibbles of four 16-bit words
        d = finite_halves(rng, (N_BLOCKS,))
        for word in range(4):
            nibble = ((d >> (4 * word)) & 15).astype(np.uint8)
            blocks[:, 49 + 2 * word] = (blocks[:, 49 + 2 * word] & 0x0F) | (nibble << 4)
    return blocks


def assert_same_bits(got, want):
    got, want = got.view(np.uint8).reshape(-1), want.view(np.uint8).reshape(-1)
    assert got.size == want.size
    different = np.flatnonzero(got != want)
    assert different.size == 0, f"{different.size} bytes differ, first at {different[:8]}"


@pytest.mark.parametrize("name", sorted(NOT_DECODED))
def test_the_package_cannot_decode(name):
    """Keeps the list short: a type that the package learns to decode must leave it. The others are decoded below."""
    block = np.zeros((1, GGML_QUANT_SIZES[Type[name]][1]), np.uint8)
    with pytest.raises(NotImplementedError):
        quants.dequantize(block, Type[name])


def test_every_type_of_the_package_is_known():
    listed = subprocess.run([TOOL, "list"], capture_output=True, text=True, timeout=60, check=True)
    ours = {line.split()[0]: [int(v) for v in line.split()[1:4]]
            for line in listed.stdout.splitlines()}
    for kind, (block_len, block_bytes) in GGML_QUANT_SIZES.items():
        if kind.name in NOT_WEIGHTS:
            continue
        assert kind.name in ours, f"{kind.name} is missing"
        assert kind.name in DECODED or kind.name in NOT_DECODED, f"{kind.name} is not compared"
        # The package still lists Q8_1 with two float scales; files have two fp16 since 2023.
        if kind.name != "Q8_1":
            assert ours[kind.name] == [int(kind), block_len, block_bytes]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", [name for name in DECODED if name not in NOT_DECODED])
def test_decode_is_bit_exact(name):
    blocks = random_blocks(name, np.random.default_rng(SEED))
    block_len, _ = GGML_QUANT_SIZES[Type[name]]
    want = quants.dequantize(blocks, Type[name])
    got = decode(name, block_len * len(blocks), blocks)
    assert_same_bits(got, np.ascontiguousarray(want, dtype=np.float32))


def test_decode_q8_k_and_q1_0():
    """Formats the package cannot decode, against their definition."""
    rng = np.random.default_rng(SEED)
    q = rng.integers(-128, 128, (50, 256), dtype=np.int8)
    d = rng.normal(size=(50, 1)).astype(np.float32)
    sums = q.reshape(50, 16, 16).sum(axis=-1, dtype=np.int16)
    blocks = np.concatenate([d.view(np.uint8), q.view(np.uint8), sums.view(np.uint8)], axis=1)
    got = decode("Q8_K", 256 * 50, blocks)
    assert_same_bits(got, d * q.astype(np.float32))

    bits = rng.integers(0, 2, (50, 128), dtype=np.uint8)
    half = rng.normal(size=(50, 1)).astype(np.float16)
    packed = np.packbits(bits, axis=1, bitorder="little")
    blocks = np.concatenate([half.view(np.uint8), packed], axis=1)
    got = decode("Q1_0", 128 * 50, blocks)
    assert_same_bits(got, half.astype(np.float32) * (2.0 * bits - 1.0).astype(np.float32))


def test_decode_checkpoint_formats():
    rng = np.random.default_rng(SEED)
    for length in (32, 64, 128):
        q = rng.integers(0, 16, (40, length), dtype=np.uint8)
        scale = rng.normal(size=(40, 1)).astype(np.float32)
        zero = rng.integers(0, 16, (40, 1)).astype(np.float32)
        packed = q[:, :length // 2] | (q[:, length // 2:] << 4)
        blocks = np.concatenate([scale.view(np.uint8), zero.view(np.uint8), packed], axis=1)
        got = decode(f"I4_{length}", length * 40, blocks)
        assert_same_bits(got, (q.astype(np.float32) - zero) * scale)


def sample_values(n_rows, n, rng):
    """Rows of several magnitudes and shapes; zeros, ties and constant rows among them."""
    rows = rng.normal(size=(n_rows, n)).astype(np.float32)
    rows *= np.float32(10.0) ** rng.integers(-3, 3, (n_rows, 1)).astype(np.float32)
    rows[0] = 0.0
    rows[1] = 1.0
    rows[2] = -1.0
    rows[3] = np.round(rows[3] * 4)
    rows[4, ::7] = 0.0
    rows[5] = np.abs(rows[5])
    rows[6] = -np.abs(rows[6])
    return rows


@pytest.mark.parametrize("name", ENCODED_EXACTLY)
def test_encode_is_bit_exact(name):
    rng = np.random.default_rng(SEED + 1)
    rows = sample_values(64, 512, rng)
    want = quants.quantize(rows, Type[name])
    got = np.frombuffer(codec("encode", name, 512, rows.tobytes(), 64), np.uint8)
    assert_same_bits(got, np.ascontiguousarray(want))


# Root mean square error on unit Gaussian values that our encoders must stay under.
RMSE_LIMIT = {
    "Q8_0": 0.006, "Q8_1": 0.006, "Q8_K": 0.0075, "Q6_K": 0.018, "Q5_K": 0.0375, "Q5_0": 0.045,
    "Q5_1": 0.041, "Q4_K": 0.075, "Q4_0": 0.09, "Q4_1": 0.083, "IQ4_NL": 0.078, "IQ4_XS": 0.078,
    "Q3_K": 0.153, "Q2_K": 0.28, "IQ3_S": 0.14, "IQ3_XXS": 0.19, "IQ2_S": 0.255, "IQ2_XS": 0.305,
    "IQ2_XXS": 0.35, "IQ1_M": 0.44, "IQ1_S": 0.475, "MXFP4": 0.12, "NVFP4": 0.092, "Q1_0": 0.62,
    "F8_E4M3": 0.03, "F8_E4M3_B128": 0.027, "I4_32": 0.086, "I4_64": 0.096, "I4_128": 0.107,
}


@pytest.mark.parametrize("name", RMSE_LIMIT)
def test_encode_error_on_gaussian_values(name):
    n, n_rows = 1024, 8
    rows = np.random.default_rng(SEED + 2).normal(size=(n_rows, n)).astype(np.float32)
    blocks = codec("encode", name, n, rows.tobytes(), n_rows)
    back = np.frombuffer(codec("decode", name, n, blocks, n_rows), np.float32).reshape(rows.shape)
    rmse = float(np.sqrt(np.mean((back - rows).astype(np.float64) ** 2)))
    print(f"{name} rmse {rmse:.4f}")
    assert rmse <= RMSE_LIMIT[name]
    # The package agrees with our reading of our blocks; it has no HF checkpoint formats.
    if name not in NOT_DECODED and name not in HF_FORMATS:
        rows_of_bytes = np.frombuffer(blocks, np.uint8).reshape(n_rows, -1)
        assert_same_bits(back, quants.dequantize(rows_of_bytes, Type[name]))
