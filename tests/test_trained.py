"""Trained models with the default (15-bit) activations against Transformers in float32 on the same weights."""
import json
import pathlib

import numpy as np
import pytest

from support.kt import run_kt
from support.measure import mean_kl
from support.models import smollm2_path, tiny_moe_path
from test_goldens import DATA, PROOF

MODELS = {"tiny-moe": tiny_moe_path, "smollm2": smollm2_path}


def compare(name: str, folder: pathlib.Path, *flags) -> tuple[float, float]:
    """Mean KL and top-1 agreement at the golden's positions (the last ones of its prompt)."""
    golden = np.load(DATA / "goldens" / f"{name}.npz")
    tokens, out = folder / "tokens.json", folder / "logits.npy"
    tokens.write_text(json.dumps(golden["tokens"].tolist()))
    run_kt("logits", "--model", MODELS[name](), "--tokens-file", tokens, "--output", out, *flags)
    reference = golden["logits"]
    logits = np.load(out)[-len(reference):]
    return mean_kl(reference, logits), float((logits.argmax(-1) == reference.argmax(-1)).mean())


@pytest.mark.parametrize("name", MODELS)
def test_default_activations(name, tmp_path):
    kl, top1 = compare(name, tmp_path)
    assert kl <= 2e-3
    assert top1 >= 0.98


@pytest.mark.parametrize("name", MODELS)
def test_float_activations(name, tmp_path):
    kl, top1 = compare(name, tmp_path, *PROOF)
    assert kl <= 2e-5  # the golden itself is stored in float16
    assert top1 == 1.0


@pytest.mark.parametrize("isa", ["ref", "avx2"])
def test_instruction_sets_agree(isa, tmp_path):
    kl, top1 = compare("tiny-moe", tmp_path, "--isa", isa)
    assert kl <= 2e-3
    assert top1 >= 0.98
