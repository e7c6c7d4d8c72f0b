"""The official OpenAI SDK against a running server."""
import asyncio
import json

import openai
import pytest


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def ask(client, server, text="Name three colours.", **more):
    options = {"temperature": 0, "max_tokens": 24} | more
    return client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": text}], **options)


def test_models(client, server):
    listed = client.models.list()
    assert [m.id for m in listed.data] == [server.model]
    assert client.models.retrieve(server.model).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_a_reply_whole_and_streamed(client, server):
    whole = ask(client, server)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(ask(client, server, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content is None
    assert all(c.choices[0].delta.role is None for c in chunks[1:] if c.choices)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-2].choices[0].delta.content is None
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({c.id for c in chunks}) == len({c.created for c in chunks}) == 1


def test_the_accumulating_helper_of_the_sdk(client, server):
    with client.chat.completions.stream(model=server.model, temperature=0,
                                        messages=[{"role": "user", "content": "Say hi and no more."}]) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content


def test_several_choices(client, server):
    reply = ask(client, server, n=3, temperature=1, seed=7)
    texts = [c.message.content for c in reply.choices]
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [c.message.content for c in ask(client, server, n=3, temperature=1, seed=7).choices]
    assert reply.usage.completion_tokens > 24


def test_stop_strings(client, server):
    whole = ask(client, server, "Count from one to ten.").choices[0].message.content
    stop = whole[8:14]
    cut = ask(client, server, "Count from one to ten.", stop=[stop, "never"])
    assert cut.choices[0].message.content == whole[:whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_logprobs(client, server):
    reply = ask(client, server, logprobs=True, top_logprobs=3, max_tokens=5)
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens == 5
    for token in content:
        assert token.logprob == token.top_logprobs[0].logprob  # greedy
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
        assert bytes(token.bytes).decode(errors="replace") == token.token
    streamed = list(ask(client, server, logprobs=True, top_logprobs=3, max_tokens=5, stream=True))
    tokens = [t for c in streamed if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [t.token for t in tokens] == [t.token for t in content]


def test_logit_bias(client, server):
    first = ask(client, server, logprobs=True, max_tokens=1).choices[0].logprobs.content[0].token
    ids = client.post("/../tokenize", body={"content": first}, cast_to=object)["tokens"]
    other = ask(client, server, max_tokens=1, logit_bias={str(i): -100 for i in ids})
    assert other.choices[0].message.content != first
    with pytest.raises(openai.BadRequestError):
        ask(client, server, logit_bias={"999999": 1})


def test_json_schema(client, server):
    schema = {"type": "object", "required": ["name", "age"], "additionalProperties": False,
              "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer"}}}
    reply = ask(client, server, "Invent a person.", max_tokens=80, temperature=1, seed=1, response_format={
        "type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}})
    person = json.loads(reply.choices[0].message.content)
    assert set(person) == {"name", "age"} and isinstance(person["age"], int)


def test_json_object_and_regex(client, server):
    reply = ask(client, server, "Answer in JSON.", max_tokens=200, response_format={"type": "json_object"})
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)
    reply = ask(client, server, "Yes or no?", extra_body={"regex": "(yes|no)!"})
    assert reply.choices[0].message.content in ("yes!", "no!")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"patternProperties": 3}])
def test_schemas_that_cannot_be_honoured_are_refused(client, server, schema):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, server, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert caught.value.param == "response_format"


def test_history_with_everything_we_send_comes_back(client, server):
    reply = ask(client, server)
    message = reply.choices[0].message.model_dump()
    again = client.chat.completions.create(
        model=server.model, max_tokens=4, temperature=0,
        messages=[{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                  {"role": "user", "content": "Name three colours."}, message, {"role": "user", "content": "More."}])
    assert again.choices[0].message.content


def test_a_begun_reply_goes_on(client, server):
    reply = client.chat.completions.create(
        model=server.model, max_tokens=8, temperature=0,
        messages=[{"role": "user", "content": "Say the alphabet."}, {"role": "assistant", "content": "A, B, C,"}])
    assert reply.choices[0].message.content.startswith(" D")


@pytest.mark.parametrize("change, param", [
    ({"temperature": 3}, "temperature"), ({"top_p": -1}, "top_p"), ({"n": 0}, "n"), ({"max_tokens": -2}, "max_tokens"),
    ({"stop": [""]}, "stop"), ({"stop": [1]}, "stop"), ({"seed": "x"}, "seed"), ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"), ({"response_format": {"type": "xml"}}, "response_format"),
    ({"tools": {}}, "tools"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
    ({"stream_options": 1}, "stream_options"), ({"stream": "yes"}, "stream")])
def test_wrong_fields_are_named(client, server, change, param):
    body = {"model": server.model, "messages": [{"role": "user", "content": "x"}]} | change
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("message", [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
    {"content": "x"}, {"role": "user", "content": 3}, "x"])
def test_messages_that_cannot_be_answered(client, server, message):
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", body={"model": server.model, "messages": [message]}, cast_to=object)


def test_a_prompt_that_is_too_long_says_how_long(client, server):
    with pytest.raises(openai.BadRequestError, match=r"\d{4} tokens, the context holds 2048") as caught:
        ask(client, server, "word " * 3000)
    assert caught.value.code == "context_length_exceeded"


def test_unknown_fields_are_ignored(client, server):
    assert ask(client, server, extra_body={"nonsense": 1, "store": True, "metadata": {"a": "b"}, "user": "me"})


def test_neighbours_do_not_change_a_greedy_reply(server):
    client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    texts = [f"Tell me about the number {i}." for i in range(12)]

    async def one(text):
        reply = await client.chat.completions.create(model=server.model, temperature=0, max_tokens=16,
                                                     messages=[{"role": "user", "content": text}])
        return reply.choices[0].message.content

    async def run():
        together = await asyncio.gather(*[one(t) for t in texts])
        alone = [await one(t) for t in texts]
        await client.close()
        return together, alone

    together, alone = asyncio.run(run())
    assert together == alone


def test_the_second_turn_finds_the_first_in_the_cache(client, server):
    messages = [{"role": "user", "content": "Tell a story about a lighthouse. " * 20}]
    first = client.chat.completions.create(model=server.model, messages=messages, max_tokens=12, temperature=0)
    messages += [first.choices[0].message.model_dump(include={"role", "content"}),
                 {"role": "user", "content": "Go on."}]
    second = client.chat.completions.create(model=server.model, messages=messages, max_tokens=4, temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


def test_a_deadline_ends_a_request(client, server):
    with pytest.raises(openai.APIStatusError, match="time allowed") as caught:
        ask(client, server, max_tokens=2000, extra_body={"timeout": 0.2, "ignore_eos": True})
    assert caught.value.status_code == 408


def test_embeddings(client, server):
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by two percent."]
    reply = client.embeddings.create(model=server.model, input=texts)  # base64, as the SDK asks for it
    plain = client.embeddings.create(model=server.model, input=texts, encoding_format="float")
    vectors = [d.embedding for d in reply.data]
    assert [d.index for d in reply.data] == [0, 1, 2] and len(vectors[0]) == 576
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 15
    for a, b in zip(reply.data, plain.data):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6)
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-5)

    def likeness(a, b):
        return sum(x * y for x, y in zip(a, b))
    assert likeness(vectors[0], vectors[1]) > likeness(vectors[0], vectors[2])
    short = client.embeddings.create(model=server.model, input=texts[0], dimensions=64)
    assert len(short.data[0].embedding) == 64
    ids = client.post("/../tokenize", body={"content": texts[0]}, cast_to=object)["tokens"]
    assert client.embeddings.create(model=server.model, input=ids).data[0].embedding == pytest.approx(vectors[0], abs=1e-6)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=server.model, input="word " * 3000)
