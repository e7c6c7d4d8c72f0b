#!/usr/bin/env python3
"""Makes tests/data/goldens: logits of Hugging Face Transformers, float32 on the CPU.

    make_goldens.py --kt build/bin/kt [--only llama ...]

For each configuration in tests/data/golden_configs and each file type, `kt quantize --dummy` writes a file
of deterministic random weights; this script reads it with the `gguf` package, loads the dequantised values
into the Transformers model and stores the logits of one fixed prompt. Needs torch, transformers and gguf.
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support.hf_weights import read_gguf  # noqa: E402

TYPES = ["F32", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]
N_TOKENS = 40


def stack_experts(weights: dict, keys: set) -> dict:
    """Per-expert matrices to the stacked tensors that Transformers 5 models hold."""
    out, experts = {}, {}
    for name, w in weights.items():
        name = name.replace("block_sparse_moe", "mlp")
        if ".experts." in name:
            head, tail = name.split(".experts.")
            index, part = tail.split(".")[:2]
            part = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}.get(part, part)
            experts.setdefault(head, {}).setdefault(part, {})[int(index)] = w
        else:
            out[name] = w
    for head, parts in experts.items():
        stack = {p: np.stack([m[i] for i in range(len(m))]) for p, m in parts.items()}
        out[f"{head}.experts.gate_up_proj"] = np.concatenate([stack["gate_proj"], stack["up_proj"]], axis=1)
        out[f"{head}.experts.down_proj"] = stack["down_proj"]
    return out


def hf_logits(config: dict, weights: dict, tokens: np.ndarray) -> np.ndarray:
    config = dict(config)
    if config["model_type"] == "kimi_k2":  # Transformers has it as remote code on the DeepSeek-V3 classes
        config["model_type"] = "deepseek_v3"
    hf_config = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32,
                                                          attn_implementation="eager")
    state = model.state_dict()
    loaded = {k: torch.from_numpy(np.array(v)) for k, v in stack_experts(weights, set(state)).items()}
    if config["tie_word_embeddings"]:
        loaded["lm_head.weight"] = loaded["model.embed_tokens.weight"]
    missing = {k for k in state if "inv_freq" not in k} - set(loaded)
    left = set(loaded) - set(state)
    assert not missing and not left, f"missing {sorted(missing)[:5]}, left over {sorted(left)[:5]}"
    model.load_state_dict(loaded, strict=False)
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].float().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kt", default=str(ROOT / "build/bin/kt"))
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    torch.manual_seed(0)
    out_dir = ROOT / "tests/data/goldens"
    out_dir.mkdir(parents=True, exist_ok=True)
    for config_path in sorted((ROOT / "tests/data/golden_configs").glob("*.json")):
        name = config_path.stem
        if args.only and name not in args.only:
            continue
        config = json.loads(config_path.read_text())
        tokens = np.random.default_rng(1).integers(3, config["vocab_size"], N_TOKENS)
        arrays = {"tokens": tokens.astype(np.int32)}
        for file_type in TYPES:
            with tempfile.TemporaryDirectory() as tmp:
                path = f"{tmp}/model.gguf"
                subprocess.run([args.kt, "quantize", "--dummy", str(config_path), path, "--type", file_type,
                                "--seed", "1"], check=True, stdout=subprocess.DEVNULL)
                arrays[file_type] = hf_logits(config, read_gguf(path, config), tokens)
                arrays[file_type + ".sha256"] = np.array(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
            print(name, file_type, "logit spread", float(arrays[file_type].std()), flush=True)
        np.savez_compressed(out_dir / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
