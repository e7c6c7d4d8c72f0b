"""Compares what `kt plan` predicts with what `kt bench` measures on this CPU: peak memory, prefill and decode.

  python3 bench/plan_accuracy.py [--build build] [--repetitions 3] [--cpu-time]

On a machine that others use, --cpu-time compares one thread's processor time instead of wall clock. The models are
random weights in the shape of small relatives of published ones, larger than any cache. The best of the repetitions
counts: other programs on the machine only take time away. The plan is made before and after, each time from rates of
the CPU measured anew; the mean of both is printed. When they differ, the model is measured again, up to four times.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "tests" / "data" / "configs"
PROMPT, GENERATED = 512, 64

TRIES = 4
STEADY = 0.1  # how far the plans before and after a measurement may be apart

# name: (published configuration, what is changed)
MODELS = {
    "qwen3-moe": ("Qwen3-30B-A3B.json", {"num_hidden_layers": 6, "vocab_size": 32000}),
    "deepseek": ("DeepSeek-V2-Lite.json", {"num_hidden_layers": 5, "vocab_size": 32000}),
    "llama": ("Llama-3.1-8B.json", {"num_hidden_layers": 4, "vocab_size": 32000}),
}
CASES = [("qwen3-moe", "Q4_K_M"), ("qwen3-moe", "Q8_0"), ("deepseek", "Q4_K_M"), ("deepseek", "Q4_0"),
         ("llama", "Q6_K"), ("llama", "BF16")]


def small_config(name: str, folder: pathlib.Path) -> pathlib.Path:
    published, changes = MODELS[name]
    config = json.loads((CONFIGS / published).read_text()) | changes
    for key in ("bos_token_id", "eos_token_id"):
        config[key] = 1
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return path


def run(command: list, environment: dict | None = None) -> tuple[str, int, float]:
    """Output, peak resident bytes and processor seconds of a command."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            raise RuntimeError(f"{command}: {err.read()[-2000:]}")
        return out.read(), usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def measure_cpu_time(bench: list, flag: str, tokens: int, repetitions: int) -> float:
    """Tokens per second of one thread's time: what more repetitions cost beyond loading."""
    other = ["-n", 0] if flag == "-p" else ["-p", 0]
    seconds = [run([*bench, "-t", 1, flag, tokens, *other, "--no-warmup", "-r", r])[2] for r in (1, 1 + repetitions)]
    return tokens * repetitions / (seconds[1] - seconds[0])


def plan(command: list) -> dict:
    """What `kt plan` says after measuring this CPU anew."""
    with tempfile.TemporaryDirectory() as cache:
        return json.loads(run(command, os.environ | {"XDG_CACHE_HOME": cache})[0])


def compare(kt: pathlib.Path, config: pathlib.Path, kind: str, args: argparse.Namespace) -> dict:
    context = PROMPT + 2
    bench = [kt, "bench", "--dummy", config, "--type", kind, "-c", context]
    command = [kt, "plan", config, "--format", kind, "-c", context, "--json"]
    threads = ["-t", 1] if args.cpu_time else []
    for _ in range(TRIES):
        planned = plan([*command, *threads])
        before = planned["speed"]
        text, peak, _ = run([*bench, "-p", PROMPT, "-n", GENERATED, "-r", 1 if args.cpu_time else args.repetitions,
                             "--json"])
        if args.cpu_time:
            measured = {"pp": measure_cpu_time(bench, "-p", PROMPT, args.repetitions),
                        "tg": measure_cpu_time(bench, "-n", 2 * GENERATED, args.repetitions)}
        else:
            measured = {row["test"][:2]: max(row["samples_ts"]) for row in json.loads(text)}
        after = plan([*command, *threads])["speed"]
        if all(abs(before[k] / after[k] - 1) <= STEADY for k in ("prefill", "decode")):
            break
        print(f"{config.stem} {kind}: the machine's speed changed meanwhile", file=sys.stderr, flush=True)
    speed = {k: (before[k] + after[k]) / 2 for k in ("prefill", "decode")}
    return {"memory": (planned["peak_bytes"], peak), "prefill": (speed["prefill"], measured["pp"]),
            "decode": (speed["decode"], measured["tg"])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    kt = args.build / "bin" / "kt"
    print("| model | type | peak MiB: plan, measured | prefill t/s: plan, measured | decode t/s: plan, measured |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in CASES:
            if args.only not in f"{name} {kind}":
                continue
            config = small_config(name, pathlib.Path(folder))
            got = compare(kt, config, kind, args)
            cells = []
            for what, scale in (("memory", 1 << 20), ("prefill", 1), ("decode", 1)):
                planned, measured = got[what]
                cells.append(f"{planned / scale:.1f}, {measured / scale:.1f} "
                             f"({100 * (planned / measured - 1):+.1f} %)")
            print(f"| {name} | {kind} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
