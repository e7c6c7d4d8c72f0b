"""The console scripts of the wheel: `kt` is the native program, `ktransformers` its server."""
import os
import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).parent / "bin" / "kt"
_UNSUPPORTED = 5  # exit status of errors.UnsupportedError


def kt() -> None:
    """Becomes `kt` with the same arguments."""
    os.execv(PROGRAM, ["kt", *sys.argv[1:]])


def serve() -> int:
    """Becomes `kt serve` with the same arguments, where `kt` has it."""
    known = subprocess.run([PROGRAM, "serve", "--help"], capture_output=True, check=False).returncode == 0
    if known:
        os.execv(PROGRAM, ["kt", "serve", *sys.argv[1:]])
    print("ktransformers: error: this version has no server (no `kt serve`); `kt chat` and ktransformers.Engine "
          "work without one", file=sys.stderr)
    return _UNSUPPORTED
