"""Text completions through the official OpenAI SDK: echo, log-probabilities, scoring as evaluation harnesses do."""
import json

import numpy as np
import openai
import pytest
from support.kt import run_kt
from support.models import smollm2_path

PROMPTS = ["Once upon a time", "The capital of France is", "Un café naïf – 日本語 🙂 ok"]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture
def complete(client, server):
    return lambda prompt, **fields: client.completions.create(
        model=server.model, prompt=prompt, **{"max_tokens": 6, "temperature": 0} | fields)


def tokens_of(client, text: str, **fields) -> list[int]:
    return client.post("/../tokenize", body={"content": text} | fields, cast_to=object)["tokens"]


def test_completions(client, complete):
    prompts = PROMPTS[:2]
    whole = complete(prompts, echo=True)
    assert [c.index for c in whole.choices] == [0, 1]
    for choice, prompt in zip(whole.choices, prompts):
        assert choice.text.startswith(prompt) and len(choice.text) > len(prompt)
    streamed = ["", ""]
    for chunk in complete(prompts, echo=True, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [c.text for c in whole.choices]
    by_ids = complete(tokens_of(client, prompts[0]))
    assert prompts[0] + by_ids.choices[0].text == whole.choices[0].text


def by_logits(tokens: list[int], folder) -> list[float]:
    """The log-probability of every token but the first, from `kt logits`."""
    ids, out = folder / "ids.json", folder / "logits.npy"
    ids.write_text(json.dumps(tokens))
    run_kt("logits", "-m", smollm2_path(), "--tokens-file", ids, "-o", out)
    logits = np.load(out).astype(np.float64)
    scores = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) \
        - logits.max(1, keepdims=True)
    return [scores[i, token] for i, token in enumerate(tokens[1:])]


def test_scores_of_prompts_are_those_of_kt_logits(client, complete, tmp_path):
    """The request of evaluation harnesses, which drop what was generated."""
    prompts = [tokens_of(client, text) for text in PROMPTS]
    reply = complete(prompts, echo=True, logprobs=1, max_tokens=1, seed=1234)
    for choice, tokens, text in zip(reply.choices, prompts, PROMPTS):
        told = choice.logprobs
        assert len(told.tokens) == len(tokens) + 1 and choice.text.startswith(text)
        assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
        assert told.token_logprobs[1:-1] == pytest.approx(by_logits(tokens, tmp_path), abs=1e-4)
        for score, top in zip(told.token_logprobs[1:], told.top_logprobs[1:]):
            assert score in top.values() and max(top.values()) >= score and len(top) <= 2


@pytest.mark.parametrize("by_ids", [False, True])
def test_scoring_alone(client, complete, by_ids):
    text = PROMPTS[1]
    tokens = tokens_of(client, text, add_special=True)
    reply = complete(tokens if by_ids else text, echo=True, logprobs=0, max_tokens=0)
    assert reply.choices[0].text == text and reply.usage.completion_tokens == 0
    assert len(reply.choices[0].logprobs.tokens) == len(tokens) == reply.usage.prompt_tokens
    again = complete(text, echo=True, logprobs=0, max_tokens=4, n=2)
    for choice in again.choices:
        assert choice.logprobs.token_logprobs[:len(tokens)] == reply.choices[0].logprobs.token_logprobs


def test_the_token_that_ends_a_scored_text_is_told(client, complete):
    """Else harnesses would drop the last token of the prompt."""
    turn = "<|im_start|>assistant\nThree.<|im_end|>\n"
    tokens = tokens_of(client, turn * 6 + turn[:-len("<|im_end|>\n")], parse_special=True)
    choice = complete(tokens, echo=True, logprobs=1, max_tokens=1).choices[0]
    assert choice.finish_reason == "stop" and choice.text.endswith("Three.")
    assert len(choice.logprobs.tokens) == len(tokens) + 1 and choice.logprobs.tokens[-1] == "<|im_end|>"


def check_offsets(text, logprobs):
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    for offset, token in zip(logprobs.text_offset, logprobs.tokens):
        assert token.startswith("bytes:\\x") or text[offset:offset + len(token)] == token


def test_text_offsets(client, complete):
    text = PROMPTS[2]
    echoed = complete(text, echo=True, logprobs=1).choices[0]
    check_offsets(echoed.text, echoed.logprobs)
    assert any(token.startswith("bytes:") for token in echoed.logprobs.tokens)
    whole = complete(text, logprobs=1).choices[0]
    check_offsets(whole.text, whole.logprobs)
    assert whole.logprobs.text_offset[0] == 0
    chunks = [c.choices[0].logprobs for c in complete(text, logprobs=1, stream=True) if c.choices[0].logprobs]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [v for c in chunks for v in getattr(c, name)] == getattr(whole.logprobs, name)


def test_best_of(complete):
    fields = {"temperature": 1, "seed": 5, "max_tokens": 8, "logprobs": 0, "extra_body": {"ignore_eos": True}}
    prompts = PROMPTS[:2]
    every = complete(prompts, n=4, **fields)
    best = complete(prompts, n=2, best_of=4, **fields)
    assert [c.index for c in best.choices] == [0, 1, 2, 3]
    assert best.usage.completion_tokens == every.usage.completion_tokens

    def mean(choice):
        return np.mean(choice.logprobs.token_logprobs)
    for p in range(2):
        likeliest = sorted(every.choices[4 * p:4 * p + 4], key=mean, reverse=True)[:2]
        assert [c.text for c in best.choices[2 * p:2 * p + 2]] == [c.text for c in likeliest]
    quiet = complete(prompts[0], best_of=4, **fields | {"logprobs": None})
    assert quiet.choices[0].text == best.choices[0].text and quiet.choices[0].logprobs is None


@pytest.mark.parametrize("fields, param", [
    ({"echo": True, "logprobs": 1, "stream": True}, "echo"), ({"best_of": 2, "stream": True}, "best_of"),
    ({"best_of": 2, "n": 3}, "best_of"), ({"best_of": 0}, "best_of"), ({"best_of": 1000}, "best_of"),
    ({"logprobs": 21}, "logprobs"), ({"echo": "yes"}, "echo"), ({"suffix": "."}, "suffix"), ({"prompt": []}, "prompt")])
def test_what_cannot_be_had_is_named(client, server, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body={"model": server.model, "prompt": "x"} | fields, cast_to=object)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
