"""Loads a large file into main memory and a GPU that may use 24 GiB, with nothing but Python.

    tools/gpu_load.py KT [--config FILE] [--type Q8_0] [--layers N] [-- FLAGS OF KT BENCH]

`kt quantize --dummy` writes it to the temporary folder. Printed are the rate at which it is read by dd, by the loader from
the disk and from the cache of files, and the process's peak memory; then it generates 16 tokens. More memory than the file
and 2 GB is a failure, as is less than 80 % of dd's rate.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from gpu_models import DATA

SPARE = 2 * 10**9
SHARE = 0.8


def forget(path: pathlib.Path) -> None:
    """Empties the cache of what is in a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(path: pathlib.Path) -> float:
    begin = time.monotonic()
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=16M"], check=True, capture_output=True)
    return path.stat().st_size / (time.monotonic() - begin)


def load(kt: str, path: pathlib.Path, flags: list) -> tuple:
    """(bytes per second, seconds, peak bytes) of a load, the generated tokens' line printed."""
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([kt, "bench", path, "--gpu-memory", "24GiB", "-p", "16", "-n", "16", "-r", "1", *flags],
                                 stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)  # of this child alone
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if child.returncode != 0:
        raise RuntimeError(text)
    found = re.search(r"loaded (.+?) in ([\d.]+) s, ([\d.]+) GB/s", text)
    print("  " + "\n  ".join(line for line in text.splitlines() if "\r" not in line))
    return float(found[3]) * 1e9, float(found[2]), usage.ru_maxrss << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kt")
    parser.add_argument("--config", type=pathlib.Path, default=DATA / "configs" / "Qwen3-30B-A3B.json")
    parser.add_argument("--type", default="Q8_0")
    parser.add_argument("--layers", default="0")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, more = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1:]
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "large.gguf"
        begin = time.monotonic()
        subprocess.run([args.kt, "quantize", "--dummy", args.config, path, "--type", args.type, "--pooled", "--layers",
                        args.layers], check=True, capture_output=True)
        size = path.stat().st_size
        print(f"{size / 1e9:.1f} GB written at {size / 1e9 / (time.monotonic() - begin):.2f} GB/s", flush=True)
        forget(path)
        disk = read_rate(path)
        cached = read_rate(path)
        print(f"dd reads it at {disk / 1e9:.2f} GB/s, and at {cached / 1e9:.2f} GB/s again", flush=True)
        for name, bound in (("from the cache", None), ("from the disk", disk)):
            if bound is not None:
                forget(path)
            print(f"loaded {name}:", flush=True)
            rate, seconds, peak = load(args.kt, path, more)
            print(f"  {rate / 1e9:.2f} GB/s, {seconds:.1f} s; peak memory {peak / 1e9:.2f} GB of {(size + SPARE) / 1e9:.2f}",
                  flush=True)
            if peak > size + SPARE:
                failures.append("too much memory")
            if bound is not None and rate < SHARE * bound:
                failures.append(f"{rate / bound:.0%} of the disk's rate")
    print("load: all is well" if not failures else "load: " + ", ".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
