"""Writes a Hugging Face folder whose linears are block FP8, as DeepSeek-V3 ships them: F8_E4M3 values and one
float32 scale (weight_scale_inv) per 128 × 128 block."""
import json
import pathlib
import struct

import numpy as np

from support.hf_weights import read_gguf

BLOCK = 128


def e4m3_values() -> np.ndarray:
    """The value of every code, NaN codes as infinity (OCP 8-bit floating point, E4M3)."""
    code = np.arange(256)
    sign, exponent, mantissa = 1 - 2 * (code >> 7), (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0 ** -6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value[(code & 127) == 127] = np.inf
    return sign * value


def to_fp8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes [n, k] uint8, scales [n/128, k/128] float32)"""
    values = e4m3_values()
    order = np.argsort(values)[2:-1]  # without the infinities; of the two zeros either serves
    order = order[np.isfinite(values[order])]
    rows, cols = (-(-size // BLOCK) for size in weight.shape)
    scales = np.zeros((rows, cols), np.float32)
    codes = np.zeros(weight.shape, np.uint8)
    for i in range(rows):
        for j in range(cols):
            at = np.s_[i * BLOCK:(i + 1) * BLOCK, j * BLOCK:(j + 1) * BLOCK]
            scales[i, j] = max(np.abs(weight[at]).max() / 448, 1e-12)
            scaled = weight[at] / scales[i, j]
            above = np.clip(np.searchsorted(values[order], scaled), 1, len(order) - 1)
            below_is_near = scaled - values[order[above - 1]] < values[order[above]] - scaled
            codes[at] = order[above - below_is_near]
    return codes, scales


def write_fp8_folder(folder: pathlib.Path, gguf_path: pathlib.Path, config: dict) -> pathlib.Path:
    tensors = {}
    for name, weight in read_gguf(str(gguf_path), config).items():
        if "_proj" in name and "kv_b" not in name and weight.shape[1] % BLOCK == 0:
            codes, scales = to_fp8(weight)
            tensors[name] = ("F8_E4M3", codes)
            tensors[name.replace(".weight", ".weight_scale_inv")] = ("F32", scales)
        else:
            tensors[name] = ("F32", weight.astype(np.float32))
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(exist_ok=True)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder
