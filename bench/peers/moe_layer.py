#!/usr/bin/env python3
"""One MoE layer (routed experts only) by kt, llama.cpp and kt-kernel, in turns, and the ratios of their times.

    bench/peers/moe_layer.py --shape qwen3-30b --formats q4_k,q8_0,bf16,int8 --n 1,16,512,2048

Rules: the same shape, number of experts and layers in rotation (at least four times the last cache level), weights of
the same distribution in the same format, the same threads. Each round runs the programs one after the other, in
alternating order; a program that waits is stopped, so that its threads take nothing from the others. A round's time is
the median of five or more calls, what is printed the median of the rounds.

kt-kernel needs a core for its queue, so it is tried with all threads and with one less; the faster count is used and
printed. int8 is kt's KExpertsCPU with backend AMXInt8 and kt-kernel's AMXINT8 (one scale per row); llama.cpp has none.
Errors are against float64 on the dequantised weights, of one or two rows.

The peers come from PyPI (peer_install.py) into --prefix, once. Without a network: --prepare --prefix DIR elsewhere
(--python 3.12 --cpu avx512 for the other machine), carry DIR, and run with --prefix DIR; or --wheels DIR with the
files of `pip download --no-deps kt-kernel llama-cpp-python numpy`.
"""
import argparse
import atexit
import json
import math
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

from peer_driver import cpu_name, make_parser, run, say, whole_number
from peer_install import CPU_FLAGS, install, python_with_numpy

HERE = pathlib.Path(__file__).resolve().parent
MAX_TOKENS = 8192  # kt-kernel's buffers are made for as many (kt_kernel_moe.py)


class Peer:
    """A program that holds the weights and measures on request; stopped in between."""

    def __init__(self, name: str, command: list, threads: int):
        self.name, self.threads = name, threads
        self.messages = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.messages, text=True)
        atexit.register(self.close)  # whatever happens: a stopped process would stay
        self.about = self.answer()
        self.pause()

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.process.wait()
        self.messages.seek(0)
        reason = self.messages.read().strip().splitlines() or [f"status {self.process.returncode}"]
        raise RuntimeError(reason[-1])

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def measure(self, n: int) -> dict:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        result = self.answer()
        self.pause()
        return {"seconds": statistics.median(result["seconds"]), "error": result["error"],
                "distinct": result["distinct"]}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def run_kt(args, layer_format: str) -> list[dict]:
    """One result of `kt bench --kernels --json` per size."""
    isa = ["--isa", args.isa] if args.isa else []
    done = run(args.kt, "bench", "--kernels", "^moe", "--shapes", args.shape, "--formats", layer_format,
               "--m", ",".join(map(str, args.n)), "--threads", args.threads, "--act", args.act, "--json", *isa)
    return json.loads(done.stdout)["results"]


def start_llama_cpp(args, layer: list) -> Peer:
    return Peer("llama.cpp", [args.python_program, HERE / "ggml_moe.py", args.prefix / "ggml", *layer],
                args.threads)


def start_kt_kernel(args, layer: list, threads: int) -> Peer:
    layer = [*layer[:5], threads, layer[6]]
    return Peer("kt-kernel", [args.python_program, HERE / "kt_kernel_moe.py", args.prefix, args.prefix / "ggml",
                              *layer], threads)


def best_kt_kernel(args, layer: list) -> Peer:
    """With the number of threads that is faster over all sizes."""
    best, least = None, math.inf
    for threads in sorted({max(1, args.threads - 1), args.threads}):
        peer = start_kt_kernel(args, layer, threads)
        score = sum(math.log(peer.measure(n)["seconds"]) for n in args.n)
        say(f"  kt-kernel with {threads} threads: geometric mean {math.exp(score / len(args.n)) * 1e3:.2f} ms")
        if score < least:
            best, peer, least = peer, best, score
        if peer:
            peer.close()
    return best


def start_peers(args, layer: list) -> list[Peer]:
    peers = []
    starters = {"llama.cpp": lambda: start_llama_cpp(args, layer),
                "kt-kernel": lambda: best_kt_kernel(args, layer)}
    for name in args.peers:
        if name == "llama.cpp" and layer[6] == "int8":
            continue
        try:
            peers.append(starters[name]())
        except RuntimeError as e:
            say(f"  {name}: {e}")
    return peers


def compare(args, layer_format: str) -> list[dict]:
    say(f"{args.shape} {layer_format}: kt")
    first = run_kt(args, layer_format)
    r = first[0]
    layer = [r["d_model"], r["d_ff"], r["n_experts"], r["n_active"], r["copies"], args.threads, layer_format]
    if r.get("note"):
        say(f"  {r['note']}")
    peers = start_peers(args, layer)
    times = {(name, n): [] for name in ["kt", *(p.name for p in peers)] for n in args.n}
    errors = {}
    ours = None

    def take_kt() -> None:
        nonlocal ours
        ours = run_kt(args, layer_format)
        for row in ours:
            times["kt", row["m"]].append(row["seconds"])
            errors["kt", row["m"]] = row["error"]

    def take_peer(peer: Peer) -> None:
        for n in args.n:
            try:
                result = peer.measure(n)
            except (RuntimeError, OSError) as e:
                sys.exit(f"{peer.name} failed with {n} tokens: {e}")
            times[peer.name, n].append(result["seconds"])
            errors[peer.name, n] = result["error"]

    try:
        for i in range(args.rounds):
            say(f"{args.shape} {layer_format}: round {i + 1} of {args.rounds}")
            turns = [take_kt] + [lambda p=p: take_peer(p) for p in peers]
            for turn in turns if i % 2 == 0 else turns[::-1]:
                turn()
    finally:
        for peer in peers:
            peer.close()
    about = {"kt": {"threads": args.threads, "bits": r["bits_per_weight"], "kernel": r["kernel"]}}
    about |= {p.name: {"threads": p.threads, "bits": p.about["bits_per_weight"], "kernel": p.about["kernel"]}
              for p in peers}
    shares = {row["m"]: (row.get("share_of_read", 0.0), row.get("share_of_peak", 0.0)) for row in ours}
    return [{"shape": args.shape, "format": layer_format, "n": n, "experts": r["n_experts"], "layers": r["copies"],
             "share_of_read": shares[n][0], "share_of_peak": shares[n][1],
             "programs": {name: {**about[name], "seconds": statistics.median(times[name, n]),
                                 "rounds": times[name, n], "error": errors[name, n]} for name in about}}
            for n in args.n]


def print_table(rows: list[dict]) -> None:
    print("| shape | format | n | program | threads | bits | ms | kt is faster by | error |")
    print("|---|---|---:|---|---:|---:|---:|---:|---:|")
    for row in rows:
        ours = row["programs"]["kt"]["seconds"]
        for name, p in row["programs"].items():
            ratio = "" if name == "kt" else f"{p['seconds'] / ours:.2f}"
            print(f"| {row['shape']} | {row['format']} | {row['n']} | {name} | {p['threads']} | {p['bits']:.2f} | "
                  f"{p['seconds'] * 1e3:.3f} | {ratio} | {p['error']:.1e} |")


def sizes(text: str) -> list[int]:
    """For argparse: "1,16" → [1, 16], ascending."""
    numbers = sorted({whole_number(1)(word) for word in text.split(",")})
    if numbers[-1] > MAX_TOKENS:
        raise argparse.ArgumentTypeError(f"{numbers[-1]} is above {MAX_TOKENS}, for which kt-kernel's buffers are made")
    return numbers


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, CPU_FLAGS)
    parser.add_argument("--shape", default="qwen3-30b", help="as kt bench --kernels --shapes names them")
    parser.add_argument("--formats", default="q4_k,q8_0,bf16,int8")
    parser.add_argument("--n", type=sizes, default="1,16,512,2048", help="tokens per call")
    parser.add_argument("--rounds", type=whole_number(1), default=3)
    parser.add_argument("--act", default="q8", choices=["q8", "q16", "f32"], help="of kt; the peers use 8 bits")
    parser.add_argument("--peers", default="llama.cpp,kt-kernel")
    parser.add_argument("--prefix", type=pathlib.Path, help="folder of the peers (default: in --cache)")
    parser.add_argument("--wheels", type=pathlib.Path, help="folder of downloaded packages, instead of PyPI")
    parser.add_argument("--python", default="{}.{}".format(*sys.version_info[:2]), help="of kt-kernel's wheel")
    parser.add_argument("--prepare", action="store_true", help="fill --prefix and stop")
    args = parser.parse_args()
    args.peers = args.peers.split(",")
    unknown = set(args.peers) - {"llama.cpp", "kt-kernel"}
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are llama.cpp and kt-kernel")
    if not args.prepare and not args.kt.exists():
        parser.error(f"{args.kt} does not exist; ./dev build makes it")
    carried = args.prefix is not None and (args.prefix / "ggml").exists() and not args.prepare
    args.prefix = args.prefix or args.cache / f"prefix-{args.cpu}"
    if not carried:
        install(args.prefix, args.cache, args.wheels, args.cpu, args.python)
    return args


def main() -> None:
    args = parse()
    if args.prepare:
        print(args.prefix)
        return
    args.python_program = python_with_numpy(args.prefix, args.wheels)
    rows = []
    for layer_format in args.formats.split(","):
        rows += compare(args, layer_format)
    print(f"{cpu_name()}, medians of {args.rounds} rounds, kt with --act {args.act}\n")
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps({"cpu": cpu_name(), "threads": args.threads, "act": args.act,
                                         "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
