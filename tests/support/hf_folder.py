"""Writes the weights of a GGUF file as a Hugging Face folder: config.json and model.safetensors."""
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from support.hf_weights import read_gguf


def write_hf_folder(folder: pathlib.Path, gguf_path: pathlib.Path, config: dict) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    weights = read_gguf(str(gguf_path), config)
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
