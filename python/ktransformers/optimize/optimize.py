"""One call puts operators of ours into a Transformers model, as a YAML rule file says, and loads its weights."""
import os
from typing import Any

from torch import nn

from ktransformers.injection.rules import inject


def optimize_and_load_gguf(module: nn.Module, rule_file: str | os.PathLike, gguf_path: str | os.PathLike,
                           model_config: Any, default_device: str = "cuda:0", q4_gguf_path: str = "", *,
                           device_map: dict[str, str] | None = None, threads: int = 0, act: str = "q16",
                           kv: str = "f16", chunk_size: int = 512, isa: str = "") -> None:
    """Replaces modules of a model on the meta device by operators, and loads all weights.

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        optimize_and_load_gguf(model, "rules.yaml", "model.gguf", config, default_device="cpu")
        model.generate(...)

    module: a causal language model of Transformers on the meta device.
    rule_file: see docs/rules.md; classes are imported by their path, your own too.
    gguf_path: a .gguf file, a folder of GGUF shards, or a folder with config.json and safetensors.
    model_config: the model's configuration, as AutoConfig gives it.
    default_device: of modules that no rule matches.
    device_map: {"cuda": "cpu"} lets the CPU compute what rules place on GPUs.
    threads, act, kv, chunk_size, isa: as the flags of `kt run`.

    The model keeps its interface. model.gguf_loader has the weights, and in tensor_device_map the devices of every
    module; model.injected says how it runs. Raises errors of ktransformers.errors, with the module's path and the
    rule's line where there is one, and leaves the model as it was then.
    """
    del q4_gguf_path  # of one device of the original only
    inject(module, os.fspath(rule_file), os.fspath(gguf_path), model_config, default_device, device_map,
           threads=threads, act=act, kv=kv, chunk_size=chunk_size, isa=isa)
