"""Tool calls that must come, through the OpenAI SDK: SmolLM2 with a template of the Hermes form."""
import json

import openai
import pytest
from support.server import Server
from support.models import smollm2_path

TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {{ tools | tojson }}. Call one as <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{%- if m.role == "tool" %}
<tool_response>{{ m.content }}</tool_response>{% else %}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}}}


TOOLS = [tool("weather", city={"type": "string", "maxLength": 12}),
         tool("add", a={"type": "integer"}, b={"type": "integer"})]
ASKED = [{"role": "user", "content": "Add 2 and 3."}]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    template = tmp_path_factory.mktemp("tools") / "hermes.jinja"
    template.write_text(TEMPLATE)
    server = Server.start(smollm2_path(), "--ctx", "1024", "--chat-template", template, "--model-name", "small")
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client
    assert server.stop() == 0


def ask(client, **more):
    return client.chat.completions.create(
        **{"model": "small", "messages": ASKED, "tools": TOOLS, "temperature": 0, "max_tokens": 120} | more)


def check(call):
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == ({"city"} if call.function.name == "weather" else {"a", "b"})


@pytest.mark.parametrize("choice, names", [("required", {"weather", "add"}), (
    {"type": "function", "function": {"name": "add"}}, {"add"})])
def test_a_call_that_must_come(client, choice, names):
    reply = ask(client, tool_choice=choice, parallel_tool_calls=False).choices[0]
    assert reply.finish_reason == "tool_calls"
    assert len(reply.message.tool_calls) == 1 and not reply.message.content
    assert reply.message.tool_calls[0].function.name in names
    check(reply.message.tool_calls[0])


def test_streamed_calls(client):
    whole = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0].message.tool_calls[0]
    ids, name, arguments, pieces = [], "", "", 0
    for chunk in ask(client, tool_choice="required", parallel_tool_calls=False, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            ids += [call.id] if call.id else []
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            pieces += 1
        assert "tool_call" not in (chunk.choices[0].delta.content or "")
    assert (name, json.loads(arguments)) == (whole.function.name, json.loads(whole.function.arguments))
    assert len(ids) == 1 and pieces > 2


def test_the_result_goes_back(client):
    message = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
    call = message.tool_calls[0]
    after = ask(client, messages=[*ASKED, message.model_dump(exclude_none=True),
                                  {"role": "tool", "tool_call_id": call.id, "content": "5"}], tool_choice="none")
    assert after.choices[0].message.content and not after.choices[0].message.tool_calls


@pytest.mark.parametrize("change", [
    {"tool_choice": "maybe"}, {"tool_choice": {"type": "function", "function": {"name": "fly"}}},
    {"tool_choice": "required", "tools": openai.omit}, {"tool_choice": {"type": "function"}},
    {"tools": [{"type": "function", "function": {"parameters": {}}}], "tool_choice": "required"}])
def test_choices_that_cannot_be_honoured(client, change):
    with pytest.raises(openai.BadRequestError):
        ask(client, **change)
