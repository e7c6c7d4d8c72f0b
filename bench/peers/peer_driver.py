"""What the programs that compare kt with its peers (llama_cpp.py, moe_layer.py) share: their common flags, running
other programs, and the machine's name. Needs nothing installed."""
import argparse
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*command, **options) -> subprocess.CompletedProcess:
    """Ends this program with the end of what the other one wrote when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{(done.stderr or done.stdout)[-2000:]}")
    return done


def cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def whole_number(least: int):
    """For argparse: a whole number that is not below `least`."""
    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} on")
        return int(text)
    return check


def make_parser(description: str, cpus) -> argparse.ArgumentParser:
    """With the flags that both programs have; `cpus`: what llama.cpp can be built for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "ktransformers" / "peers"
    parser.add_argument("--kt", type=pathlib.Path, default=ROOT / "build/bin/kt")
    parser.add_argument("--threads", type=whole_number(1), default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", help="passed to kt, such as avx2")
    parser.add_argument("--cpu", choices=sorted(cpus), default="native", help="what llama.cpp is built for")
    parser.add_argument("--cache", type=pathlib.Path, default=cache)
    parser.add_argument("--json", type=pathlib.Path, help="also write every sample to this file")
    return parser
