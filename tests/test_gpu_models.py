"""Whole models on GPUs, without one: the golden models (test_goldens.py) with the stand-in of the GPU plug-in that has
all kernels as loops (src/backend/gpu/test_fixtures). It has two GPUs, over which the planner divides the layers, and
rules place parts. On a GPU tools/gpu_models.py runs the same models with the real kernels."""
import pathlib
import sys

import numpy as np
import pytest

from support.kt import BUILD, run_kt
from test_goldens import ARCHITECTURES, Golden, mean_kl

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
from gpu_models import BOUND, EXPERTS_ON_CPU, LATENT  # noqa: E402

PLUGIN = ["--gpu-plugin", BUILD / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"]
PLACEMENTS = {"planned": [], "one GPU": ["--gpus", "1"], "experts on the CPU": EXPERTS_ON_CPU}


@pytest.fixture(scope="module")
def goldens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goldens")
    return {name: Golden(name, folder) for name in ARCHITECTURES}


def flags_of(placement, tmp_path):
    rules = PLACEMENTS[placement]
    if isinstance(rules, list):
        return rules
    path = tmp_path / "rules.yaml"
    path.write_text(rules)
    return ["--rules", path, "--device", "cuda:0"]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_goldens_on_gpus(goldens, name, placement, tmp_path):
    if name.startswith(LATENT) and placement == "experts on the CPU":
        pytest.skip("latent attention has no operator for GPUs")
    golden = goldens[name]
    file_type = "Q4_K_M" if placement == "planned" else "BF16"
    model, reference = golden.model(file_type), golden.arrays[file_type]
    results = [golden.logits(model, *PLUGIN, *flags_of(placement, tmp_path), *walk)
               for walk in ([], ["--decode"], ["--chunk", "7"])]
    for logits in results:
        kls = sorted(mean_kl(r[None], got[None]) for r, got in zip(reference, logits))
        assert np.mean(kls[:-1]) <= BOUND  # a near tie of a router may turn in one token
    assert not np.array_equal(results[0], golden.logits(model, "--gpus", "0"))  # it was the GPUs


def test_what_gpus_cannot_do_is_said(goldens):
    golden = goldens["llama"]
    model = golden.model("BF16")
    for flags, status, message in ((["--act", "f32"], 5, "GPUs compute with bf16 activations"),
                                   (["--kv", "q8_0"], 5, "GPUs keep keys and values in bf16"),
                                   (["--gpu-memory", "1MiB"], 2, "--gpu-memory: 1.0 MiB is too little")):
        done = run_kt("logits", "--model", model, "--tokens-file", golden.tokens, "--output", golden.folder / "x.npy",
                      *PLUGIN, *flags, check=False)
        assert done.returncode == status and message in done.stderr


def test_latent_attention_is_refused_by_rules(goldens, tmp_path):
    golden = goldens["deepseek_v3"]
    rules = tmp_path / "rules.yaml"
    rules.write_text(PLACEMENTS["experts on the CPU"])
    done = run_kt("logits", "--model", golden.model("BF16"), "--tokens-file", golden.tokens, "--output",
                  golden.folder / "x.npy", *PLUGIN, "--rules", rules, "--device", "cuda:0", check=False)
    assert done.returncode == 5 and "latent attention has no operator for GPUs" in done.stderr
