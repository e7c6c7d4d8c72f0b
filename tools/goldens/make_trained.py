#!/usr/bin/env python3
"""Makes the goldens of trained models: tests/data/goldens/{tiny-moe,smollm2}.npz.

    make_trained.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf

The reference is Transformers in float32 on the dequantised weights of the very file; logits are stored as
float16 differences from each row's largest, so that the likely tokens keep their precision, for the last
positions only. Needs
torch, transformers, tokenizers and gguf.
"""
import argparse
import json
import pathlib
import sys

import gguf
import numpy as np
import tokenizers
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tools/goldens"))
from make_goldens import logits_of  # noqa: E402
from support.hf_model import hf_model  # noqa: E402
from support.hf_weights import read_gguf  # noqa: E402

STORY = ("Once upon a time, in a house near the sea, there lived a wise owl. Her name was Olive. One day Olive "
         "found a rusty key in a hollow tree. \"Which door is it for?\" she asked. She showed it to Pip. It did "
         "not fit the barn. Then Pip, a tiny mouse, said, \"There is a secret door behind the mill.\" They went "
         "there together. Olive turned the key. Click! The door opened.")
CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France, and which river runs through it?<|im_end|>\n"
        "<|im_start|>assistant\nThe capital of France is Paris. The river Seine runs through the city. It is one "
        "of the most important rivers in France, and many of the city's famous sights stand along its banks.")
N_ROWS = 32  # last positions whose logits are kept


def field(reader: gguf.GGUFReader, key: str, default=None):
    item = reader.get_field(key)
    return default if item is None else item.contents()


def llama_config(path: str) -> dict:
    """config.json of a GGUF file of the llama architecture."""
    r = gguf.GGUFReader(path)
    heads = field(r, "llama.attention.head_count")
    width = field(r, "llama.embedding_length")
    names = {t.name for t in r.tensors}
    vocab = next(int(t.shape[1]) for t in r.tensors if t.name == "token_embd.weight")
    return dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=width, vocab_size=vocab,
                num_hidden_layers=field(r, "llama.block_count"), num_attention_heads=heads,
                num_key_value_heads=field(r, "llama.attention.head_count_kv"), head_dim=width // heads,
                intermediate_size=field(r, "llama.feed_forward_length"), hidden_act="silu",
                max_position_embeddings=field(r, "llama.context_length"),
                rms_norm_eps=float(field(r, "llama.attention.layer_norm_rms_epsilon")),
                rope_theta=float(field(r, "llama.rope.freq_base", 10000.0)), attention_bias=False, mlp_bias=False,
                tie_word_embeddings="output.weight" not in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", required=True)
    args = parser.parse_args()
    tiny = str(ROOT / "models/tiny-moe/tiny-moe-q4_k_m.gguf")
    tiny_config = json.loads((ROOT / "models/tiny-moe/config.json").read_text())
    tiny_tokens = tokenizers.Tokenizer.from_file(str(ROOT / "models/tiny-moe/tokenizer.json")).encode(STORY).ids
    if tiny_tokens[0] != tiny_config["bos_token_id"]:
        tiny_tokens.insert(0, tiny_config["bos_token_id"])
    smollm2 = pathlib.Path(args.smollm2)
    smollm2_tokens = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)(CHAT)["input_ids"]
    for name, path, config, ids in (("tiny-moe", tiny, tiny_config, tiny_tokens),
                                    ("smollm2", args.smollm2, llama_config(args.smollm2), smollm2_tokens)):
        tokens = np.array(ids)
        logits = logits_of(hf_model(config, read_gguf(path, config)), tokens)[-N_ROWS:]
        np.savez_compressed(ROOT / f"tests/data/goldens/{name}.npz", tokens=tokens.astype(np.int32),
                            logits=(logits - logits.max(axis=-1, keepdims=True)).astype(np.float16))
        print(name, logits.shape, "largest logit", float(np.abs(logits).max()))


if __name__ == "__main__":
    main()
