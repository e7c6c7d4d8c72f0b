#!/usr/bin/env python3
"""Writes the complete tensor list of each published configuration, without weights.

For every tests/data/configs/NAME.json: the names and shapes of the Transformers model on the meta device,
renamed to what the published checkpoint has (one tensor per expert), go to tests/data/tensor_lists/NAME.txt,
and the names that the gguf package gives them (experts stacked) to NAME.gguf.txt. One line is one pattern,
"name d0 d1 ...", in which {a..b} stands for a range of numbers.

Needs torch, transformers and gguf; only the lists are used by the tests.
"""
import json
import re
import sys
from pathlib import Path

import gguf
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "tests" / "data" / "configs"
LISTS = ROOT / "tests" / "data" / "tensor_lists"

GGUF_ARCH = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
    "kimi_k2": gguf.MODEL_ARCH.DEEPSEEK2,
}


def meta_model(settings):
    """The Transformers model of a config.json, on the meta device."""
    settings = dict(settings)
    settings.pop("quantization_config", None)  # the plain shapes are wanted
    model_type = settings.pop("model_type")
    if model_type == "kimi_k2":  # the same classes as DeepSeek-V3
        model_type = "deepseek_v3"
    config = transformers.AutoConfig.for_model(model_type, **settings)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def published(model_type, name, shape):
    """Names and shapes that a module tensor has in the published checkpoint."""
    mixtral = model_type == "mixtral"
    if mixtral:
        name = name.replace(".mlp.", ".block_sparse_moe.")
    fused = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
    if not fused:
        yield name, shape
        return
    prefix, kind = fused.groups()
    names = {"gate": "w1", "up": "w3", "down": "w2"} if mixtral else {
        "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    for expert in range(shape[0]):
        if kind == "down_proj":
            yield f"{prefix}.{expert}.{names['down']}.weight", shape[1:]
        else:
            half = [shape[1] // 2, shape[2]]
            yield f"{prefix}.{expert}.{names['gate']}.weight", half
            yield f"{prefix}.{expert}.{names['up']}.weight", half


def checkpoint_tensors(settings):
    model = meta_model(settings)
    tied = settings.get("tie_word_embeddings", False)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        for one, shape in published(settings["model_type"], name, list(tensor.shape)):
            tensors[one] = list(shape)
    return tensors


def gguf_tensors(settings, tensors):
    """The same tensors as a GGUF converter names and shapes them."""
    arch = GGUF_ARCH[settings["model_type"]]
    names = gguf.get_tensor_name_map(arch, settings["num_hidden_layers"])
    out = {}
    counts = {}
    for name, shape in tensors.items():
        expert = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name)
        if expert:
            name = f"{expert[1]}.{expert[3]}.weight"
            counts[name] = counts.get(name, 0) + 1
            shape = [counts[name]] + shape
        elif name.endswith(".kv_b_proj.weight"):
            heads, nope = settings["num_attention_heads"], settings["qk_nope_head_dim"]
            value, rank = settings["v_head_dim"], shape[1]
            base = name[: -len("kv_b_proj.weight")]
            for part, dims in (("k_b_proj", [heads, rank, nope]), ("v_b_proj", [heads, value, rank])):
                out[names.get_name(base + part) + ".weight"] = dims
            continue
        elif name.endswith("e_score_correction_bias"):
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        elif name.endswith("shared_expert_gate.weight"):
            shape = shape[1:]
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise SystemExit(f"the gguf package has no name for {name}")
        out[mapped] = shape
    return out


def ranges(numbers):
    """[0, 1, 2, 5] -> [(0, 2), (5, 5)]"""
    out = []
    for n in sorted(numbers):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return [tuple(r) for r in out]


def text_of(span):
    return str(span[0]) if span[0] == span[1] else "{%d..%d}" % span


def compact(tensors):
    """Lines with number ranges for names that differ in numbers only and have one shape."""
    groups = {}
    for name, shape in tensors.items():
        parts = re.split(r"(?<=\.)(\d+)(?=\.)", name)
        key = (tuple(parts[0::2]), tuple(shape))
        groups.setdefault(key, []).append(tuple(int(n) for n in parts[1::2]))
    lines = []
    for (texts, shape), numbers in groups.items():
        tails = {}
        for n in numbers:  # layer -> the expert numbers in it
            tails.setdefault(n[:1], set()).add(n[1:])
        by_tail = {}
        for head, tail in tails.items():
            by_tail.setdefault(tuple(ranges([t[0] for t in tail if t])), []).append(head)
        for tail, heads in by_tail.items():
            for head in ranges([h[0] for h in heads if h]) or [None]:
                for expert in tail or [None]:
                    spans = [text_of(s) for s in (head, expert) if s is not None]
                    name = texts[0] + "".join(s + t for s, t in zip(spans, texts[1:]))
                    lines.append(" ".join([name] + [str(d) for d in shape]))
    return sorted(lines)


def main():
    LISTS.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:]
    for path in sorted(CONFIGS.glob("*.json")):
        if wanted and path.stem not in wanted:
            continue
        settings = json.loads(path.read_text())
        tensors = checkpoint_tensors(settings)
        stored = gguf_tensors(settings, tensors)
        for suffix, listed in ((".txt", tensors), (".gguf.txt", stored)):
            lines = [f"# {path.stem}: {len(listed)} tensors, by tools/make_tensor_lists.py"] + compact(listed)
            (LISTS / (path.stem + suffix)).write_text("\n".join(lines) + "\n")
        print(path.stem, len(tensors), len(stored))


if __name__ == "__main__":
    main()
