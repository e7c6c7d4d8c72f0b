"""The console scripts of the wheel: `kt` is the native program, `ktransformers` its server."""
import os
import pathlib
import sys

PROGRAM = pathlib.Path(__file__).parent / "bin" / "kt"


def kt() -> None:
    """Becomes `kt` with the same arguments."""
    os.execv(PROGRAM, ["kt", *sys.argv[1:]])


def serve() -> None:
    """Becomes `kt serve` with the same arguments."""
    os.execv(PROGRAM, ["kt", "serve", *sys.argv[1:]])
