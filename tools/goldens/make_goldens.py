#!/usr/bin/env python3
"""Makes tests/data/goldens: logits of Hugging Face Transformers, float32 on the CPU.

    make_goldens.py --kt build/bin/kt [--only llama ...]

For each configuration in tests/data/golden_configs and each file type, `kt quantize --dummy` writes a file
of deterministic random weights; this script reads it with the `gguf` package, loads the dequantised values
into the Transformers model and stores the logits of one fixed prompt; and in golden_noise.npz how far each token's
logits move when roundings to bf16 disturb what the layers compute with. Needs torch, transformers and gguf.
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tools"))
from gpu_models import NOISE  # noqa: E402
from support.hf_model import hf_model  # noqa: E402
from support.hf_weights import read_gguf  # noqa: E402
from support.measure import distances  # noqa: E402

TYPES = ["F32", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]
N_TOKENS = 40
ROUNDING, TRIES = 2.0**-7, 32  # twice what bf16 rounds by: a layer rounds more than once


def logits_of(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].float().numpy()


def noise_of(model, tokens: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The largest distance of each token's logits in TRIES runs in which every value that a norm gives, and with them
    attention, routers and experts, has an error of up to ROUNDING. Where two experts' scores nearly tie, each is all
    but surely chosen in one of them. Hooks stay on the model."""
    generator = torch.Generator().manual_seed(1)

    def blur(module, inputs, output):
        return output * (1 + ROUNDING * (2 * torch.rand(output.shape, generator=generator) - 1))

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.register_forward_hook(blur)
    return np.max([distances(reference, logits_of(model, tokens)) for _ in range(TRIES)], axis=0).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kt", default=str(ROOT / "build/bin/kt"))
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    torch.manual_seed(0)
    out_dir = ROOT / "tests/data/goldens"
    out_dir.mkdir(parents=True, exist_ok=True)
    noise = dict(np.load(NOISE)) if NOISE.exists() else {}
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
                model = hf_model(config, read_gguf(path, config))
                arrays[file_type] = logits_of(model, tokens)
                noise[f"{name}.{file_type}"] = noise_of(model, tokens, arrays[file_type])
                arrays[file_type + ".sha256"] = np.array(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
            print(name, file_type, "logit spread", float(arrays[file_type].std()), flush=True)
        np.savez_compressed(out_dir / f"{name}.npz", **arrays)
    np.savez_compressed(NOISE, **noise)


if __name__ == "__main__":
    main()
