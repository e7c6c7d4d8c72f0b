"""model.generate and prefill_and_generate of injected models give the tokens of plain Transformers."""
import re
import warnings

import pytest
import torch
import transformers
from injected import ARCHITECTURES
from transformers import GenerationConfig

from ktransformers.errors import UnsupportedError, UsageError
from ktransformers.util.utils import prefill_and_generate

N = 24


def generate(model, ids, **options):
    torch.manual_seed(7)
    config = GenerationConfig(max_new_tokens=N, pad_token_id=0, eos_token_id=None, **options)
    with torch.no_grad():
        return model.generate(ids, generation_config=config).tolist()


def padded(small, lengths=(17, 9, 30)):
    n = max(lengths)
    ids, mask = torch.zeros((len(lengths), n), dtype=torch.long), torch.zeros((len(lengths), n), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, n - length:], mask[row, n - length:] = small.tokens[0, row:row + length], 1
    return ids, mask


@pytest.mark.filterwarnings("ignore:.*kv_b_proj")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy(small_models, name):
    small = small_models(name)
    prompt = small.tokens[:, :12]
    assert generate(small.injected(), prompt) == generate(small.reference, prompt)


OPTIONS = {
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 30, "top_p": 0.9},
    "beams": {"num_beams": 4},
    "beam sampling": {"num_beams": 3, "do_sample": True, "top_k": 20},
    "several": {"num_return_sequences": 3, "do_sample": True, "top_k": 20},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "repetition penalty": {"repetition_penalty": 1.3},
    "no cache": {"use_cache": False},
}


@pytest.mark.filterwarnings("ignore:.*kv_b_proj")
@pytest.mark.parametrize("mode", ["whole", "modules"])
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("option", OPTIONS)
def test_ways_to_generate(small_models, name, option, mode):
    small = small_models(name)
    model = small.injected()
    if mode == "modules":
        model.model.norm.register_forward_hook(lambda *args: None)
    prompt = small.tokens[:, :12]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if mode == "modules" else "error", UserWarning)
        assert generate(model, prompt, **OPTIONS[option]) == generate(small.reference, prompt, **OPTIONS[option])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_left_padded_batches(small_models, options):
    small = small_models("qwen2_moe")
    ids, mask = padded(small)
    got, wanted = (m.generate(ids, attention_mask=mask, max_new_tokens=N, do_sample=False, pad_token_id=0,
                              eos_token_id=None, **options).tolist() for m in (small.injected(), small.reference))
    assert got == wanted


def test_assisted(small_models):
    small = small_models("qwen3")
    prompt = small.tokens[:, :12]
    model = small.injected()
    plain = generate(model, prompt)
    torch.manual_seed(7)
    assistant = small.reference
    got = model.generate(prompt, assistant_model=assistant, max_new_tokens=N, do_sample=False, pad_token_id=0,
                         eos_token_id=None)
    assert got.tolist() == plain
    got = assistant.generate(prompt, assistant_model=model, max_new_tokens=N, do_sample=False, pad_token_id=0,
                             eos_token_id=None)
    assert got.tolist() == plain


def test_streamer_sees_every_token(small_models):
    small = small_models("llama")

    class Collect(transformers.generation.streamers.BaseStreamer):
        def __init__(self):
            self.seen, self.ended = [], False

        def put(self, value):
            self.seen += value.reshape(-1).tolist()

        def end(self):
            self.ended = True

    streamer = Collect()
    out = small.injected().generate(small.tokens[:, :12], streamer=streamer, max_new_tokens=N, do_sample=False,
                                    pad_token_id=0, eos_token_id=None)
    assert streamer.ended and streamer.seen == out[0].tolist()


def test_other_caches_are_refused(small_models):
    small = small_models("llama")
    model = small.injected()
    with pytest.raises(UnsupportedError, match="cache_implementation"):
        model.generate(small.tokens, max_new_tokens=2, cache_implementation="static", pad_token_id=0)
    with pytest.raises(UnsupportedError, match="DynamicCache.*new_cache"):
        model(small.tokens, cache=transformers.DynamicCache())


class Tokenizer:
    """Ids as text, for models of random weights."""
    eos_token_id, unk_token_id = None, None

    def decode(self, ids, **_):
        return " ".join(str(int(i)) for i in ids) + " "

    def encode(self, text, **_):
        return [1, 2]

    def convert_tokens_to_ids(self, token):
        return None


@pytest.mark.parametrize("mode", ["whole", "modules"])
def test_prefill_and_generate(small_models, capsys, mode):
    small = small_models("qwen3_moe")
    model = small.injected()
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, repetition_penalty=1.3)
    prompt = small.tokens[:, :12]
    wanted = generate(small.reference, prompt, repetition_penalty=1.3)[0][12:]
    if mode == "modules":
        model.model.norm.register_forward_hook(lambda *args: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = prefill_and_generate(model, Tokenizer(), prompt, max_new_tokens=N)
    assert tokens == wanted
    out = capsys.readouterr().out
    assert out.startswith(" ".join(map(str, wanted)))
    labels = re.findall(r"^([a-z ]+):", out, re.M)
    assert labels == ["prompt eval count", "prompt eval duration", "prompt eval rate", "eval count", "eval duration",
                      "eval rate"]
    assert "12 token(s)" in out and f"{N} token(s)" in out


def test_prefill_and_generate_stops_and_samples(small_models, capsys):
    small = small_models("qwen3_moe")
    model = small.injected()
    prompt = small.tokens[:, :12]
    wanted = generate(small.reference, prompt)[0][12:]
    stop = wanted[4]
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=stop)
    assert prefill_and_generate(model, Tokenizer(), prompt, max_new_tokens=N) == wanted[:wanted.index(stop)]
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, top_k=5, eos_token_id=None)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(prefill_and_generate(model, Tokenizer(), prompt, max_new_tokens=N))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("inputs", [torch.zeros((2, 3), dtype=torch.long), torch.zeros((1, 0), dtype=torch.long), [1]])
def test_prefill_and_generate_wants_one_prompt(small_models, inputs):
    model = small_models("llama").injected()
    with pytest.raises(UsageError, match="one prompt"):
        prefill_and_generate(model, Tokenizer(), inputs)
    with pytest.raises(UnsupportedError, match="long_context"):
        prefill_and_generate(model, Tokenizer(), torch.ones((1, 3), dtype=torch.long), mode="long_context")
