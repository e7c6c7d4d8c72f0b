"""Anthropic's Messages API: its own client, and the bytes on the wire."""
import http.client
import json

import anthropic
import pytest

GREEDY = {"temperature": 0}  # newer clients have no argument for it
HELLO = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture
def create(client, server):
    def call(**fields):
        return client.messages.create(**({"model": server.model, "max_tokens": 12, "messages": HELLO,
                                          "extra_body": GREEDY} | fields))
    return call


def ask(server, path, body, headers=None):
    """(status, headers, body) of one POST."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, json.dumps(body), headers or {})
    reply = connection.getresponse()
    return reply.status, reply.headers, reply.read()


def body_of(server, **fields):
    return GREEDY | {"model": server.model, "max_tokens": 4, "messages": HELLO} | fields


def events(text):
    """Each event's JSON; `event:` must name its type."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + found[-1]["type"]
    return found


def test_message(create, server):
    message = create()
    assert message.id.startswith("msg_") and message.type == "message" and message.role == "assistant"
    assert message.model == server.model
    [block] = message.content
    assert block.type == "text" and "Paris" in block.text
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert message.usage.output_tokens <= 12


def test_stream_adds_up_to_the_message(client, create, server):
    whole = create()
    with client.messages.stream(model=server.model, max_tokens=12, messages=HELLO, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens


def test_the_bytes_of_a_stream(server):
    status, headers, body = ask(server, "/v1/messages", body_of(server, stream=True))
    assert status == 200 and headers["content-type"] == "text/event-stream"
    all_events = events(body.decode())
    kinds = [event["type"] for event in all_events]
    n_deltas = kinds.count("content_block_delta")
    assert kinds == ["message_start", "content_block_start", *["content_block_delta"] * n_deltas,
                     "content_block_stop", "message_delta", "message_stop"]
    start = all_events[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["input_tokens"] > 0
    assert all_events[1] == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert all_events[2]["delta"]["type"] == "text_delta"
    assert all_events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert all_events[-2]["usage"]["output_tokens"] == 4
    assert all_events[-1] == {"type": "message_stop"}


def test_usage_tells_what_the_cache_held(create):
    messages = [{"role": "user", "content": "Count: " + " ".join(map(str, range(200)))}]
    first, second = create(messages=messages).usage, create(messages=messages).usage
    assert second.cache_read_input_tokens > 100
    total = first.input_tokens + first.cache_read_input_tokens
    assert second.input_tokens + second.cache_read_input_tokens == total


def test_stop_reasons(create):
    assert create(max_tokens=2).stop_reason == "max_tokens"
    cut = create(stop_sequences=["Paris"])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in cut.content[0].text


def test_no_tokens_at_all(create):
    message = create(max_tokens=0)
    assert message.content == [] and message.stop_reason == "max_tokens" and message.usage.output_tokens == 0


def test_system(client, server):
    def count(**fields):
        return client.messages.count_tokens(model=server.model, messages=HELLO, **fields).input_tokens
    blocks = [{"type": "text", "text": "You are a pirate.", "cache_control": {"type": "ephemeral"}}]
    assert count(system="You are a pirate.") == count(system=blocks) != count()


def test_count_is_what_a_message_uses(client, create, server):
    usage = create().usage
    count = client.messages.count_tokens(model=server.model, messages=HELLO).input_tokens
    assert count == usage.input_tokens + usage.cache_read_input_tokens


def test_history_with_every_block(create):
    messages = HELLO + [
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                          {"type": "text", "text": "I add."},
                                          {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3", "is_error": True},
                                     {"type": "text", "text": "Go on."}]}]
    assert create(messages=messages, tools=[TOOL], tool_choice={"type": "auto"}, metadata={"user_id": "u"},
                  thinking={"type": "disabled"}, extra_body=GREEDY | {"top_k": 5, "top_p": 0.9}).content


def test_begun_reply_goes_on(create):
    begun = HELLO + [{"role": "assistant", "content": "The capital of France is"}]
    assert create(messages=begun).content[0].text.startswith(" Paris")
    begun[-1]["content"] = [{"type": "text", "text": "The capital of France is"}]
    assert create(messages=begun).content[0].text.startswith(" Paris")


def test_unknown_model(create):
    with pytest.raises(anthropic.NotFoundError, match="not found"):
        create(model="claude-9")


@pytest.mark.parametrize("fields, wanted", [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": "word " * 4000}]}, "the context holds 2048"),
    ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0"),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "add"}}, "tool_choice"),
    ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "does not think"),
    ({"thinking": {"type": "much"}}, "thinking.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_format.schema"),
    ({"tool_choice": {"type": "any"}}, "tools"),
    ({"model": None}, "model"),
])
def test_refused(server, fields, wanted):
    status, headers, text = ask(server, "/v1/messages", body_of(server, **fields))
    said = json.loads(text)
    assert (status, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
    assert wanted in said["error"]["message"] and list(said) == ["type", "error", "request_id"]


def test_errors_have_the_types_of_the_protocol(server):
    status, _, text = ask(server, "/v1/messages/nothing", {})
    assert (status, json.loads(text)["error"]["type"]) == (404, "not_found_error")


def test_a_reply_bound_to_a_schema(create):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    reply = create(max_tokens=60, extra_body=GREEDY | {"output_config": {"format": {"type": "json_schema",
                                                                             "schema": schema}}})
    assert isinstance(json.loads(reply.content[0].text)["age"], int)
