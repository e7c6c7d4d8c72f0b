#!/usr/bin/env python3
"""Makes tests/data/module_trees: the modules of Hugging Face Transformers, per golden configuration.

    make_module_trees.py [--only llama ...]

Each configuration of tests/data/golden_configs is built on the meta device; the file lists every module path in
order, with the class paths that rules can name for it (most derived first). Needs torch and transformers.
"""
import argparse
import json
import pathlib

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def classes_of(module: torch.nn.Module) -> list[str]:
    """Module classes of the method resolution order; helpers that are no modules are left out."""
    return [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__ if issubclass(c, torch.nn.Module)]


def tree_of(config: dict) -> list:
    if config["model_type"] == "kimi_k2":  # Transformers has it as remote code on the DeepSeek-V3 classes
        config = {**config, "model_type": "deepseek_v3"}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config),
                                                              attn_implementation="eager")
    return [[path, classes_of(module)] for path, module in model.named_modules()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    out_dir = ROOT / "tests/data/module_trees"
    out_dir.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "tests/data/golden_configs").glob("*.json")):
        if args.only and path.stem not in args.only:
            continue
        tree = tree_of(json.loads(path.read_text()))
        classes = sorted({tuple(c) for _, c in tree})
        modules = {p: classes.index(tuple(c)) for p, c in tree}
        text = json.dumps({"transformers": transformers.__version__, "classes": classes, "modules": modules}, indent=0)
        (out_dir / path.name).write_text(text + "\n")
        print(f"{path.stem}: {len(tree)} modules, {len(classes)} classes")


if __name__ == "__main__":
    main()
