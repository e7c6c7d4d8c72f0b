"""OpenAI's Responses API: its own client, and the bytes on the wire."""
import http.client
import json

import openai
import pytest

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture
def create(client, server):
    def call(**fields):
        return client.responses.create(**({"model": server.model, "input": QUESTION, "temperature": 0,
                                           "max_output_tokens": 24} | fields))
    return call


def post(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, json.dumps(body))
    reply = connection.getresponse()
    return reply.status, reply.headers, reply.read()


def test_response(create, server):
    response = create(metadata={"k": "v"}, instructions="Answer in English.")
    assert response.id.startswith("resp_") and response.object == "response" and response.model == server.model
    assert response.status == "completed" and response.error is None and response.incomplete_details is None
    [item] = response.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert "Paris" in response.output_text
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert response.metadata == {"k": "v"} and response.instructions == "Answer in English."


def test_stream_adds_up_to_the_response(client, create, server):
    whole = create()
    with client.responses.stream(model=server.model, input=QUESTION, temperature=0, max_output_tokens=24) as stream:
        seen = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text and final.status == whole.status
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == whole.output_text
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


def test_the_bytes_of_a_stream(server):
    status, headers, body = post(server, "/v1/responses", {"model": server.model, "input": QUESTION, "stream": True,
                                                          "max_output_tokens": 3, "temperature": 0})
    assert status == 200 and headers["content-type"] == "text/event-stream"
    events = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + events[-1]["type"] and events[-1]["sequence_number"] == len(events) - 1
    kinds = [event["type"].removeprefix("response.") for event in events]
    n_deltas = kinds.count("output_text.delta")
    assert kinds == ["created", "in_progress", "output_item.added", "content_part.added",
                     *["output_text.delta"] * n_deltas, "output_text.done", "content_part.done", "output_item.done",
                     "incomplete"]
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    last = events[-1]["response"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"} and last["usage"]["output_tokens"] == 3
    assert last["output"] == [events[-2]["item"]] and last["output"][0]["status"] == "incomplete"


def test_items_of_a_conversation(create):
    items = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
             {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
             {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{\"what\": \"France\"}"},
             {"type": "function_call_output", "call_id": "c1", "output": "Paris"},
             {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Are you sure?"}]
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": True}
    response = create(input=items, tools=[tool], tool_choice="auto", store=False, parallel_tool_calls=True)
    assert response.output_text and response.tools[0].name == "look_up"


def test_a_reply_goes_back_as_input(create):
    first = create()
    again = create(input=[{"role": "user", "content": QUESTION}, *first.output,
                          {"role": "user", "content": "And of Italy?"}])
    assert again.status in ("completed", "incomplete")
    assert again.usage.input_tokens > first.usage.input_tokens


def test_count_is_what_a_response_uses(client, create, server):
    counted = client.responses.input_tokens.count(model=server.model, input=QUESTION, instructions="Be brief.")
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == create(instructions="Be brief.").usage.input_tokens


@pytest.mark.parametrize("fields, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_logprobs": 2}, "top_logprobs"),
])
def test_refused(server, fields, param):
    status, _, text = post(server, "/v1/responses", {"model": server.model, "input": "x"} | fields)
    said = json.loads(text)["error"]
    assert (status, said["type"], said["param"]) == (400, "invalid_request_error", param)


def test_unknown_model(create):
    with pytest.raises(openai.NotFoundError, match="not found"):
        create(model="gpt-9")


def test_a_reply_bound_to_a_schema(create):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    reply = create(max_output_tokens=60, text={"format": {"type": "json_schema", "name": "age", "schema": schema}})
    assert isinstance(json.loads(reply.output_text)["age"], int)
