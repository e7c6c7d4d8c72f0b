"""Makes the tokenizer and the token file of tiny-moe from the corpus scripts beside it.

    python3 models/tiny-moe/prepare.py [--documents 400000]

Writes tokenizer.json, tokenizer_config.json and generation_config.json here, and .work/tokens.bin:
a zlib stream of little-endian uint16 tokens, every document opened by <|bos|> and closed by <|eos|>.
The last 1 % of the documents is the validation part; train.py splits it off.
"""
import argparse
import json
import pathlib
import re
import zlib

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import corpus

HERE = pathlib.Path(__file__).resolve().parent
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    # The role markers are tokens of their own; learning merges on their letters would waste vocabulary.
    plain = (part for text in corpus.documents(40000, seed=7) for part in re.split(r"<\|\w+\|>", text) if part)
    tokenizer.train_from_iterator(plain, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B:1", special_tokens=[("<|bos|>", 0)])
    return tokenizer


def write_tokenizer(tokenizer):
    tokenizer.save(str(HERE / "tokenizer.json"))
    config = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<|bos|>", "eos_token": "<|eos|>",
        "pad_token": "<|pad|>", "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
        "model_max_length": 1024, "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (HERE / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "do_sample": True,
                  "temperature": 0.7, "top_p": 0.95}
    (HERE / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=400000)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    vocab_size = json.loads((HERE / "config.json").read_text())["vocab_size"]
    tokenizer = train_tokenizer(vocab_size)
    write_tokenizer(tokenizer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, config.json wants {vocab_size}")
    parts, batch, characters = [], [], 0
    for i, text in enumerate(corpus.documents(args.documents, args.seed), 1):
        batch.append(text)
        if len(batch) == 10000 or i == args.documents:
            characters += sum(map(len, batch))
            for encoding in tokenizer.encode_batch(batch):  # <|bos|> comes from the post-processor
                parts.append(np.array(encoding.ids, dtype="<u2"))
            batch = []
    tokens = np.concatenate(parts)
    packed = zlib.compress(tokens.tobytes(), 6)
    (HERE / ".work").mkdir(exist_ok=True)
    (HERE / ".work" / "tokens.bin").write_bytes(packed)
    print(f"{args.documents} documents, {characters / 1e6:.1f} M characters, {len(tokens) / 1e6:.2f} M tokens "
          f"(longest document {max(map(len, parts))}), tokens.bin {len(packed) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
