"""Peak memory of injection, in a process of its own."""
import json
import os
import pathlib
import subprocess
import sys

import pytest
from injected import LINEARS
from support.kt import run_kt

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPE = {"num_hidden_layers": 8, "vocab_size": 16000}

LOAD = """
import json, pathlib, re, sys, warnings
import torch
from support.hf_model import hf_config
from transformers import AutoModelForCausalLM
from ktransformers.optimize.optimize import optimize_and_load_gguf

def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

config = hf_config(json.loads(pathlib.Path(sys.argv[1]).read_text()))
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
model.eval()
before = resident("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    optimize_and_load_gguf(model, sys.argv[2], sys.argv[3], config, default_device="cpu", threads=2)
print(resident("VmHWM") - before)
print(model(torch.arange(4)[None]).logits.isfinite().all().item())
"""


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
def test_loading_needs_little_more_than_the_file(kind, tmp_path):
    config, rules, weights = tmp_path / "config.json", tmp_path / "rules.yaml", tmp_path / "weights.gguf"
    published = json.loads((ROOT / "bench" / "peers" / "qwen3_moe_small.json").read_text())
    config.write_text(json.dumps(published | SHAPE))
    rules.write_text(LINEARS)
    run_kt("quantize", "--dummy", config, weights, "--type", kind, "--pooled")
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""), *sys.path])
    done = subprocess.run([sys.executable, "-c", LOAD, config, rules, weights], capture_output=True, text=True,
                          check=False, timeout=300, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-3000:]
    grown, finite = done.stdout.split()
    assert finite == "True"
    print(f"{int(grown) / weights.stat().st_size:.3f} x the file")
    assert 0.8 * weights.stat().st_size < int(grown) <= 1.15 * weights.stat().st_size
