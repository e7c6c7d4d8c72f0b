"""Runs the built `kt` binary."""
import os
import pathlib
import subprocess

BUILD = pathlib.Path(os.environ.get("KT_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))


def kt_path() -> str:
    return str(BUILD / "bin" / "kt")


def run_kt(*args, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess:
    """Runs `kt args…`; with check, a failure raises with the program's own message."""
    done = subprocess.run([kt_path(), *map(str, args)], capture_output=True, text=True, input=stdin)
    if check and done.returncode != 0:
        raise AssertionError(f"kt {' '.join(map(str, args))} exited {done.returncode}: {done.stderr.strip()}")
    return done
