"""Tokenizers of Mistral as GGUF vocabularies, against the libraries that the models were trained with:
SentencePiece for the first generations, tiktoken for Tekken. The files come with the package mistral-common."""
import base64
import importlib.util
import json
import pathlib

import pytest
import sentencepiece
import tiktoken

from support.text_tool import TextTool
from test_text import TYPE_BYTE, TYPE_CONTROL, TYPE_NORMAL, TYPE_UNUSED, corpus

TYPE_UNKNOWN = 2
N_SPECIAL = 1000


@pytest.fixture()
def tool():
    tool = TextTool()
    yield tool
    tool.close()


def data(name: str) -> pathlib.Path:
    return pathlib.Path(importlib.util.find_spec("mistral_common").origin).parent / "data" / name


def sentencepiece_vocab(model: sentencepiece.SentencePieceProcessor) -> dict:
    ids = range(model.get_piece_size())

    def kind(i: int) -> int:
        for test, name in [(model.is_unknown, TYPE_UNKNOWN), (model.is_control, TYPE_CONTROL),
                           (model.is_unused, TYPE_UNUSED), (model.is_byte, TYPE_BYTE)]:
            if test(i):
                return name
        return TYPE_NORMAL

    return {"model": "llama", "tokens": [model.id_to_piece(i) for i in ids],
            "scores": [model.get_score(i) for i in ids], "types": [kind(i) for i in ids],
            "bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "add_bos": True}


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3",
                                  "mistral_instruct_tokenizer_241114.model.v7"])
def test_sentencepiece_models(tool, name):
    model = sentencepiece.SentencePieceProcessor(model_file=str(data(name)))
    vocab = sentencepiece_vocab(model)
    tool.must("open_gguf", vocab=vocab)
    total = 0
    for text in corpus():
        wanted = model.encode(text)
        got = tool.must("encode", text=text, add_special=False, parse_special=False)["ids"]
        assert got == wanted, repr(text)
        total += len(got)
        assert tool.must("decode", ids=got, skip_special=False)["text"] == model.decode(got), repr(text)
    assert total > 5000
    assert tool.must("encode", text="Hi", add_special=True)["ids"] == [1, *model.encode("Hi")]


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for each byte: itself where it is a visible Latin-1 character, else one from 256 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(rest)}


def tekken_vocab(ranks: dict[bytes, int]) -> dict:
    """As converters write it: merges are all pairs of tokens that make a token, in the order of its rank."""
    letters = byte_letters()
    spelled = {token: "".join(letters[b] for b in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.get):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [f"{spelled[left]} {spelled[right]}" for left, right in pairs]
    special = ["<unk>", "<s>", "</s>", *(f"<SPECIAL_{i}>" for i in range(3, N_SPECIAL))]
    return {"model": "gpt2", "pre": "tekken", "merges": merges,
            "tokens": special + [spelled[token] for token in sorted(ranks, key=ranks.get)],
            "types": [TYPE_CONTROL] * N_SPECIAL + [TYPE_NORMAL] * len(ranks), "bos": 1, "eos": 2}


@pytest.mark.parametrize("name", ["tekken_240718.json", "tekken_240911.json"])
def test_tekken(tool, name):
    file = json.loads(data(name).read_text(encoding="utf-8"))
    n_text = file["config"]["default_vocab_size"] - N_SPECIAL
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in file["vocab"][:n_text]}
    reference = tiktoken.Encoding(name, pat_str=file["config"]["pattern"], mergeable_ranks=ranks,
                                  special_tokens={})
    tool.must("open_gguf", vocab=tekken_vocab(ranks))
    total = 0
    for text in corpus():
        wanted = [i + N_SPECIAL for i in reference.encode_ordinary(text)]
        got = tool.must("encode", text=text, add_special=False, parse_special=False)["ids"]
        assert got == wanted, repr(text)
        total += len(got)
        assert tool.must("decode", ids=got, skip_special=False)["text"] == text
    assert total > 5000
    assert tool.must("encode", text="Hi", add_special=True)["ids"][0] == 1
