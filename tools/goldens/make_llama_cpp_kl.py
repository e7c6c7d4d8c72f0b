#!/usr/bin/env python3
"""Makes tests/interop/llama_cpp_kl.json: what llama.cpp itself loses to its 8-bit activations.

    make_llama_cpp_kl.py --kt build/bin/kt [--only llama ...] [--threads N]

For each configuration in tests/data/golden_configs, each quantised file type and several seeds, `kt quantize
--dummy` writes a random model; the reference is `kt logits --act f32 --kv f32`, which the golden tests hold
to Transformers within 1e-9. llama.cpp (8-bit activations, 16-bit cache: its defaults) evaluates the same file
and prompt, and {name: {type: [mean KL of each seed]}} is stored: the bar for kt's own 8-bit activations.
Several seeds, because one expert chosen differently outweighs all rounding of a short prompt. Needs node-llama-cpp
(tests/interop). An architecture that llama.cpp cannot load is left out, and the reason printed; so is one of
which it computes another function, as float32 weights show (it has no sliding window for Mistral).
"""
import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from interop import llama_cpp  # noqa: E402
from interop.dummies import SEEDS, TYPES, Dummy  # noqa: E402
from interop.vocabulary import with_vocabulary  # noqa: E402
from support.measure import mean_kl, top1_agreement  # noqa: E402

SAME_FUNCTION = 1e-6  # mean KL with float32 weights and cache, where nothing is rounded to 8 bits


def run_both(args, config: pathlib.Path, file_type: str, seed: int, kv: str) -> tuple[np.ndarray, np.ndarray]:
    """Exact logits and llama.cpp's, [n_tokens, vocab]; raises PeerError when it cannot load the file."""
    with tempfile.TemporaryDirectory() as folder:
        dummy = Dummy(args.kt, config, file_type, seed, pathlib.Path(folder))
        exact = dummy.logits("--act", "f32", "--kv", "f32")
        model = with_vocabulary(dummy.model, pathlib.Path(folder) / "peer.gguf", exact.shape[1])
        return exact, llama_cpp.logits(model, dummy.tokens, threads=args.threads, kv=kv)


def why_not(args, config: pathlib.Path) -> str | None:
    """Why llama.cpp is no bar for this architecture; None when it is one."""
    try:
        kl = mean_kl(*run_both(args, config, "F32", SEEDS[0], "F32"))
    except llama_cpp.PeerError as error:
        return str(error)
    return f"llama.cpp computes another function: KL {kl:.1e} with float32 weights" if kl > SAME_FUNCTION else None


def measure(args, config: pathlib.Path, file_type: str) -> list[float]:
    pairs = [run_both(args, config, file_type, seed, "F16") for seed in SEEDS]
    kls = [mean_kl(*pair) for pair in pairs]
    print(f"{config.stem:18} {file_type:7} KL {np.mean(kls):.3e} ({', '.join(f'{k:.1e}' for k in kls)})  "
          f"top-1 {np.mean([top1_agreement(*pair) for pair in pairs]):.3f}", flush=True)
    return [float(f"{k:.4e}") for k in kls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kt", default=str(ROOT / "build/bin/kt"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if problem := llama_cpp.missing():
        sys.exit(problem)
    out = ROOT / "tests/interop/llama_cpp_kl.json"
    bars = json.loads(out.read_text()) if out.exists() and args.only else {}
    for config_path in sorted((ROOT / "tests/data/golden_configs").glob("*.json")):
        if args.only and config_path.stem not in args.only:
            continue
        bars.pop(config_path.stem, None)
        if reason := why_not(args, config_path):
            print(f"{config_path.stem:18} left out: {reason}", flush=True)
        else:
            bars[config_path.stem] = {t: measure(args, config_path, t) for t in TYPES}
    blocks = [f' "{name}": {{\n' + ",\n".join(f'  "{t}": {json.dumps(k)}' for t, k in types.items()) + "\n }"
              for name, types in sorted(bars.items())]
    out.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
