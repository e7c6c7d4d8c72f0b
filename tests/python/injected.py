"""Small random models for the tests of injection, as weights on disk and as Transformers models."""
import json
import pathlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from support.hf_folder import write_hf_folder
from support.hf_model import hf_config, hf_model
from support.hf_weights import read_gguf
from support.kt import run_kt
from transformers import AutoModelForCausalLM

from ktransformers.optimize.optimize import optimize_and_load_gguf

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
ARCHITECTURES = sorted(p.stem for p in (DATA / "golden_configs").glob("*.json"))
LINEARS = """
- match: {class: torch.nn.Linear}
  replace:
    class: ktransformers.operators.linear.KTransformersLinear
    kwargs: {generate_device: cpu, prefill_device: cpu, generate_op: KLinearCPUInfer, prefill_op: KLinearTorch}
"""
EXACT = {"act": "f32", "kv": "f32"}


@dataclass
class SmallModel:
    name: str
    folder: pathlib.Path

    @cached_property
    def config(self) -> dict:
        return json.loads((DATA / "golden_configs" / f"{self.name}.json").read_text())

    @cached_property
    def gguf(self) -> pathlib.Path:
        path = self.folder / f"{self.name}.gguf"
        run_kt("quantize", "--dummy", DATA / "golden_configs" / f"{self.name}.json", path, "--type", "Q8_0", "--seed",
               "1")
        return path

    @cached_property
    def safetensors(self) -> pathlib.Path:
        return write_hf_folder(self.folder / self.name, self.gguf, self.config)

    @cached_property
    def reference(self):
        """The Transformers model in float32 with the same (dequantised) weights."""
        return hf_model(self.config, read_gguf(str(self.gguf), self.config))

    @cached_property
    def tokens(self) -> torch.Tensor:
        return torch.tensor(np.load(DATA / "goldens" / f"{self.name}.npz")["tokens"].astype(np.int64))[None]

    @property
    def hf_config(self):
        return hf_config(self.config)

    def bare(self):
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.hf_config)

    def injected(self, rules: str = LINEARS, weights: pathlib.Path | None = None, **options):
        path = self.folder / "rules.yaml"
        path.write_text(rules)
        model = self.bare()
        optimize_and_load_gguf(model, path, weights or self.gguf, self.hf_config,
                               **{"default_device": "cpu"} | EXACT | options)
        return model


def mean_kl(reference: torch.Tensor, logits: torch.Tensor) -> float:
    p, q = (torch.log_softmax(x.double(), dim=-1) for x in (reference, logits))
    return float((p.exp() * (p - q)).sum(dim=-1).mean())
