"""Random models, prompts and kt's logits on them: what the bars against llama.cpp are measured on."""
import json
import pathlib
import subprocess

import numpy as np

TYPES = ["Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]
SEEDS = [11, 12, 13]
N_TOKENS = 120


class Dummy:
    """A file of random weights written by `kt quantize --dummy` into `folder`, and a prompt for it."""

    def __init__(self, kt: str, config: pathlib.Path, file_type: str, seed: int, folder: pathlib.Path):
        self.kt, self.folder, self.model = kt, folder, folder / "model.gguf"
        self._run("quantize", "--dummy", config, self.model, "--type", file_type, "--seed", seed)
        n_vocab = json.loads(config.read_text())["vocab_size"]
        self.tokens = np.random.default_rng(seed).integers(3, n_vocab, N_TOKENS).tolist()

    def logits(self, *flags) -> np.ndarray:
        """[N_TOKENS, vocab] float32."""
        (self.folder / "tokens.json").write_text(json.dumps(self.tokens))
        self._run("logits", "--model", self.model, "--tokens-file", self.folder / "tokens.json",
                  "--output", self.folder / "logits.npy", *flags)
        return np.load(self.folder / "logits.npy")

    def _run(self, *args):
        done = subprocess.run([self.kt, *map(str, args)], capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"kt {' '.join(map(str, args))}: {done.stderr.strip()}")
