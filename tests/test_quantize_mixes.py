"""`kt quantize` gives every tensor the element format that llama.cpp's quantiser gives it, for every file type.

Small models of many layers, so that the rules that count layers, heads and experts all show; llama.cpp's side is
the dry run of the library that the interoperability tests load (tests/interop/llama_quantize.py).
"""
import json
import pathlib
import re
import struct
import subprocess
import sys

import gguf
import pytest

from interop import llama_quantize
from support.kt import run_kt

CONFIGS = pathlib.Path(__file__).parent / "data" / "golden_configs"
FILE_TYPES = {  # numbers of general.file_type
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8,
    "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "MXFP4_MOE": 38, "Q3_K_L": 13,
    "Q3_K_M": 12, "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XS": 22, "IQ3_XXS": 23, "Q2_K": 10, "Q2_K_S": 21,
    "IQ2_M": 29, "IQ2_S": 28, "IQ2_XS": 20, "IQ2_XXS": 19, "TQ2_0": 37, "TQ1_0": 36, "IQ1_M": 31, "IQ1_S": 24,
    "Q1_0": 40,
}
SMALL = {"intermediate_size": 256, "moe_intermediate_size": 256}
MODELS = {  # name: (golden configuration, changes)
    "grouped": ("llama", {"num_hidden_layers": 18}),
    "tied": ("llama", {"num_hidden_layers": 16, "tie_word_embeddings": True}),
    "one_value_per_head": ("llama", {"num_hidden_layers": 19, "num_key_value_heads": 8}),
    "odd_width": ("llama", {"num_hidden_layers": 16, "hidden_size": 288, "intermediate_size": 320}),
    "no_block_fits": ("llama", {"num_hidden_layers": 2, "hidden_size": 264, "intermediate_size": 312}),
    "eighty_layers": ("llama", {"num_hidden_layers": 80}),
    "eighty_layers_qwen2": ("qwen2", {"num_hidden_layers": 80}),
    "eight_experts": ("mixtral", {"num_hidden_layers": 16, "num_local_experts": 8}),
    "few_experts": ("mixtral", {"num_hidden_layers": 17, "num_local_experts": 4, "num_key_value_heads": 8}),
    "qwen3_moe": ("qwen3_moe", {"num_hidden_layers": 24, "num_experts": 16}),
    "qwen2_moe": ("qwen2_moe", {"num_hidden_layers": 16, "num_experts": 6}),
    "latent": ("deepseek_v2_lite", {"num_hidden_layers": 27, "n_routed_experts": 16, "kv_lora_rank": 256}),
    "latent_low_rank_query": ("deepseek_v3", {"num_hidden_layers": 16, "n_routed_experts": 12, "kv_lora_rank": 256,
                                              "n_group": 4}),
    "latent_eight_experts": ("deepseek_v3", {"num_hidden_layers": 16}),
}
LINE = re.compile(r"^(\S+) +\[[\d, ]+\] +(\w+) ", re.MULTILINE)


class Model:
    """An F16 file of random weights and an importance matrix for it, in both programs' forms."""

    def __init__(self, name: str, folder: pathlib.Path):
        base, changes = MODELS[name]
        config = json.loads((CONFIGS / f"{base}.json").read_text())
        config.update({k: v for k, v in SMALL.items() if k in config})
        config.update(changes)
        (folder / "config.json").write_text(json.dumps(config))
        self.path = folder / "model.gguf"
        run_kt("quantize", "--dummy", folder / "config.json", self.path, "--type", "F16", "--pooled")
        tensors = gguf.GGUFReader(str(self.path)).tensors
        self.stored = {t.name: t.tensor_type.name for t in tensors}
        sizes = {t.name: int(t.shape[0]) * (int(t.shape[2]) if len(t.shape) > 2 else 1)
                 for t in tensors if len(t.shape) > 1}
        self.ours, self.theirs = folder / "imatrix.dat", folder / "imatrix.json"
        self.theirs.write_text(json.dumps(sizes))
        with self.ours.open("wb") as f:
            f.write(struct.pack("<i", len(sizes)))
            for tensor, n in sizes.items():
                f.write(struct.pack("<i", len(tensor)) + tensor.encode())
                f.write(struct.pack("<ii", 1, n) + struct.pack("<f", 1.0) * n)

    def peer(self, imatrix: bool) -> dict[str, dict]:
        done = subprocess.run([sys.executable, llama_quantize.__file__, str(self.path),
                               str(self.theirs) if imatrix else "-", *map(str, FILE_TYPES.values())],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-1000:]
        out = json.loads(done.stdout)
        for answer in out.values():
            if "refused" in answer:
                assert "no tensor type fallback" in answer["refused"], answer
                continue
            answer["formats"] = {k: v.upper() if v else self.stored[k] for k, v in answer["formats"].items()}
            assert answer["formats"].keys() == self.stored.keys()
        return out

    def flags(self, imatrix: bool) -> list:
        return ["--imatrix", self.ours] if imatrix else []


def test_help_lists_the_file_types():
    listed = run_kt("quantize", "--help").stdout.split("Types:")[1].split("need --imatrix")[0]
    assert set(FILE_TYPES) <= set(listed.split())


@pytest.mark.parametrize("imatrix", [False, True], ids=["alone", "imatrix"])
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_the_format_of_llama_cpp(name, imatrix, tmp_path):
    assert llama_quantize.library(), "node-llama-cpp is not installed: see tests/interop/package.json"
    model = Model(name, tmp_path)
    wrong = []
    for (file_type, number), answer in zip(FILE_TYPES.items(), model.peer(imatrix).values(), strict=True):
        if "refused" in answer:  # rows of a length that Q1_0 cannot have; F16 here
            assert file_type == "Q1_0"
            continue
        done = run_kt("quantize", model.path, "--type", file_type, "--dry-run", *model.flags(imatrix), check=False)
        if answer["needs_imatrix"] and not imatrix:
            if done.returncode == 0 or "--imatrix" not in done.stderr:
                wrong.append(f"{file_type}: accepted without an importance matrix")
            continue
        assert done.returncode == 0, done.stderr
        ours = dict(LINE.findall(done.stdout))
        assert ours.keys() == model.stored.keys()
        wrong += [f"{file_type}: {tensor} is {ours[tensor]}, {theirs} in llama.cpp"
                  for tensor, theirs in answer["formats"].items() if ours[tensor] != theirs]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file_type", ["Q3_K_M", "IQ3_XXS"])
def test_the_file_is_what_the_dry_run_says(file_type, tmp_path):
    model = Model("few_experts", tmp_path)
    flags = ["--type", file_type, *model.flags(True)]
    planned = dict(LINE.findall(run_kt("quantize", model.path, "--dry-run", *flags).stdout))
    run_kt("quantize", model.path, tmp_path / "out.gguf", *flags)
    reader = gguf.GGUFReader(str(tmp_path / "out.gguf"))
    assert {t.name: t.tensor_type.name for t in reader.tensors} == planned
    assert reader.fields["general.file_type"].contents() == FILE_TYPES[file_type]
