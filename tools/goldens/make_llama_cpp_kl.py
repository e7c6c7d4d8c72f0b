#!/usr/bin/env python3
"""Makes tests/interop/llama_cpp_kl.json: what llama.cpp itself loses to its 8-bit activations.

    make_llama_cpp_kl.py --kt build/bin/kt [--only llama ...] [--threads N]

For each configuration in tests/data/golden_configs, each quantised file type and several seeds, `kt quantize
--dummy` writes a random model; the reference is `kt logits --act f32 --kv f32`, which the golden tests hold
to Transformers within 1e-9. llama.cpp (8-bit activations, 16-bit cache: its defaults) evaluates the same file
and prompt, and {name: {type: [mean KL of each seed]}} is stored: the bar for kt's own 8-bit activations.
Several seeds, because one expert chosen differently outweighs all rounding of a short prompt. Needs node-llama-cpp
(tests/interop). A file that llama.cpp cannot load is left out, and its reason printed; so is one whose KL
shows that llama.cpp computes another model (it has no sliding window for Mistral).
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
from interop.measure import mean_kl, top1_agreement  # noqa: E402
from interop.vocabulary import with_vocabulary  # noqa: E402

OTHER_MODEL = 0.05  # rounding costs random models up to some 1e-2; far more is a different function


def measure(args, config: pathlib.Path, file_type: str) -> list[float] | None:
    kls, top1 = [], []
    label = f"{config.stem:18} {file_type:7}"
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            dummy = Dummy(args.kt, config, file_type, seed, pathlib.Path(folder))
            exact = dummy.logits("--act", "f32", "--kv", "f32")
            model = with_vocabulary(dummy.model, pathlib.Path(folder) / "peer.gguf", exact.shape[1])
            try:
                theirs = llama_cpp.logits(model, dummy.tokens, threads=args.threads)
            except llama_cpp.PeerError as error:
                print(f"{label} left out: {error}", flush=True)
                return None
        kls.append(mean_kl(exact, theirs))
        top1.append(top1_agreement(exact, theirs))
    kl = float(np.mean(kls))
    print(f"{label} KL {kl:.3e} ({', '.join(f'{k:.1e}' for k in kls)})  top-1 {np.mean(top1):.3f}", flush=True)
    if not kl < OTHER_MODEL:
        print(f"{label} left out: llama.cpp computes something else than Transformers", flush=True)
        return None
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
        kls = {t: measure(args, config_path, t) for t in TYPES}
        kept = {t: seeds for t, seeds in kls.items() if seeds is not None}
        bars.pop(config_path.stem, None)
        if kept:
            bars[config_path.stem] = kept
    blocks = [f' "{name}": {{\n' + ",\n".join(f'  "{t}": {json.dumps(k)}' for t, k in types.items()) + "\n }"
              for name, types in sorted(bars.items())]
    out.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
