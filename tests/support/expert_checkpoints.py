"""Checkpoints of one layer's routed experts as each method of KTMoEWrapper finds them, and the weights they hold.

Every writer takes a folder and the experts as float tensors {"gate_proj": [n_experts, d_ff, d_model], …}, writes them
rounded as its format does, and returns what a reader must find."""
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
Weights = dict[str, torch.Tensor]


def random_experts(n_experts: int, d_model: int, d_ff: int) -> Weights:
    return {p: torch.randn(n_experts, *((d_model, d_ff) if p == "down_proj" else (d_ff, d_model))) / 8
            for p in PROJECTIONS}


def save(folder: pathlib.Path, tensors: Weights) -> None:
    folder.mkdir(exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")


def per_expert(experts: Weights, prefix: str, convert, names=None) -> tuple[Weights, Weights]:
    """Tensors of all experts, convert(weight) -> ({suffix: tensor}, what it holds), and what they hold."""
    tensors, held = {}, {}
    for p, stack in experts.items():
        parts = [convert(w) for w in stack]
        held[p] = torch.stack([w for _, w in parts])
        for e, (stored, _) in enumerate(parts):
            tensors |= {f"{prefix}.{e}.{(names or {}).get(p, p)}.{suffix}": t for suffix, t in stored.items()}
    return tensors, held


def write_bf16(folder, experts, layer=1, prefix="model.layers.{}.mlp.experts", names=None) -> Weights:
    tensors, held = per_expert(experts, prefix.format(layer), lambda w: ({"weight": w.bfloat16()},
                                                                         w.bfloat16().float()), names)
    save(folder, tensors)
    return held


def write_fused(folder, experts, layer=1) -> Weights:
    rounded = {p: w.bfloat16() for p, w in experts.items()}
    prefix = f"model.layers.{layer}.mlp.experts"
    save(folder, {f"{prefix}.gate_up_proj": torch.cat([rounded["gate_proj"], rounded["up_proj"]], 1),
                  f"{prefix}.down_proj": rounded["down_proj"]})
    return {p: w.float() for p, w in rounded.items()}


def write_fp8(folder, experts, layer=1) -> Weights:
    def convert(w):
        blocks = w.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))  # [n, 128, k, 128]
        scale = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        held = (codes.float() * scale[:, None, :, None]).reshape(w.shape)
        return {"weight": codes.reshape(w.shape), "weight_scale_inv": scale}, held
    tensors, held = per_expert(experts, f"model.layers.{layer}.mlp.experts", convert)
    save(folder, tensors)
    return held


def write_fp8_rows(folder, experts, layer=1) -> Weights:
    def convert(w):
        scale = w.abs().amax(1, keepdim=True) / 448
        codes = (w / scale).to(torch.float8_e4m3fn)
        return {"weight": codes, "weight_scale": scale}, codes.float() * scale
    tensors, held = per_expert(experts, f"language_model.model.layers.{layer}.mlp.experts", convert)
    save(folder, tensors)
    return held


def int4_codes(w, group):
    """Codes 0 to 15 with 8 for zero, [n, k], and scales [n, k / group]."""
    groups = w.unflatten(1, (-1, group))
    scale = (groups.abs().amax(2) / 7).bfloat16()
    codes = ((groups / scale.float()[..., None]).round().clamp(-8, 7) + 8).to(torch.int32)
    return codes.flatten(1), scale, ((codes - 8) * scale.float()[..., None]).flatten(1)


def words(codes):
    """Eight codes along the last dimension → one int32, the first in the lowest bits."""
    eight = codes.to(torch.int64).unflatten(-1, (-1, 8))
    packed = (eight << (4 * torch.arange(8))).sum(-1)
    return (packed - ((packed >> 31) << 32)).to(torch.int32)


def write_rawint4(folder, experts, layer=1, as_bytes=False) -> Weights:
    def convert(w):
        codes, scale, held = int4_codes(w, 32)
        packed = words(codes)
        return {"weight_packed": packed.view(torch.uint8) if as_bytes else packed, "weight_scale": scale,
                "weight_shape": torch.tensor(w.shape)}, held
    tensors, held = per_expert(experts, f"language_model.model.layers.{layer}.mlp.experts", convert)
    save(folder, tensors)
    return held


def write_gptq(folder, experts, layer=1) -> Weights:
    def convert(w):
        codes, scale, held = int4_codes(w, 128)
        return {"qweight": words(codes).T, "scales": scale.T,
                "qzeros": torch.full((scale.shape[1], w.shape[0] // 8), 0x77777777, dtype=torch.int32),
                "g_idx": torch.arange(w.shape[1], dtype=torch.int32) // 128}, held
    tensors, held = per_expert(experts, f"model.layers.{layer}.mlp.experts", convert)
    save(folder, tensors)
    return held


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def write_mxfp4(folder, experts, layer=1) -> Weights:
    def convert(w):
        groups = w.unflatten(1, (-1, 32))
        exponent = torch.floor(torch.log2(groups.abs().amax(2))).clamp(min=-100) - 2
        scaled = groups / torch.exp2(exponent)[..., None]
        codes = (scaled[..., None] - E2M1).abs().argmin(-1)
        held = (E2M1[codes] * torch.exp2(exponent)[..., None]).flatten(1)
        pairs = codes.flatten(1).unflatten(1, (-1, 2))
        return {"weight": (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8).view(torch.int8),
                "scale": (exponent + 127).to(torch.uint8)}, held
    tensors, held = per_expert(experts, f"layers.{layer}.ffn.experts", convert, MIXTRAL)
    save(folder, tensors)
    return held


def write_gguf(folder, experts, layer=1, gate_up="Q8_0", down="Q4_0") -> Weights:
    folder.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "an-architecture-nobody-knows")
    held = {}
    for p, stack in experts.items():
        kind = gguf.GGMLQuantizationType[down if p == "down_proj" else gate_up]
        data = gguf.quants.quantize(stack.numpy().astype(np.float32), kind)
        writer.add_tensor(f"blk.{layer}.ffn_{p.removesuffix('_proj')}_exps.weight", data, raw_dtype=kind)
        held[p] = torch.from_numpy(gguf.quants.dequantize(data, kind)).view(stack.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def rounded_rows(w: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights with one float16 scale for each row, symmetric integers."""
    scale = (w.abs().amax(-1, keepdim=True) / (127 if bits == 8 else 7.5)).half().float()
    least, most = (-127, 127) if bits == 8 else (-8, 7)
    return (w / scale).round().clamp(least, most) * scale
