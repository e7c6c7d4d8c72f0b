"""Programs that many people put between themselves and a server: LangChain and LiteLLM."""
import json
import os

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false")  # else they ask the internet
import litellm  # noqa: E402
from langchain_core.messages import HumanMessage, ToolMessage  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: E402

QUESTION = "Name three colours."
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}


def langchain(server, **more):
    return ChatOpenAI(base_url=server.url + "/v1", api_key="none", model=server.model, max_retries=0, temperature=0, **more)


def test_langchain(server):
    model = langchain(server, max_tokens=16)
    whole = model.invoke(QUESTION)
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(piece.content for piece in model.stream(QUESTION)) == whole.content
    person = {"title": "Person", "description": "A person.", "type": "object", "required": ["age"],
              "additionalProperties": False, "properties": {"age": {"type": "integer", "maximum": 120}}}
    made = langchain(server, max_tokens=60).with_structured_output(person, method="json_schema").invoke("Invent one.")
    assert isinstance(made["age"], int)


def test_langchain_tools(copycat):
    model = langchain(copycat, max_tokens=80).bind_tools([ADD])
    asked = HumanMessage("1 + 2?")
    reply = model.invoke([asked])
    [call] = reply.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 1, "b": 2})
    streamed = None
    for piece in model.stream([asked]):
        streamed = piece if streamed is None else streamed + piece
    assert [c["args"] for c in streamed.tool_calls] == [call["args"]]
    assert model.invoke([asked, reply, ToolMessage("3", tool_call_id=call["id"])]).tool_calls


def test_langchain_embeddings(server):
    model = OpenAIEmbeddings(base_url=server.url + "/v1", api_key="none", model=server.model,
                             check_embedding_ctx_length=False)
    one, two = model.embed_documents(["A cat.", "A dog."])
    assert len(one) == len(two) == 576 and one != two
    assert model.embed_query("A cat.") == one


def litellm_chat(server, **more):
    fields = {"model": f"openai/{server.model}", "api_base": server.url + "/v1", "api_key": "none", "temperature": 0,
              "max_retries": 0}
    return litellm.completion(**fields | more)


def test_litellm(server):
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
    whole = litellm_chat(server, **asked)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    pieces = litellm_chat(server, stream=True, **asked)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content


def test_litellm_tools_and_thoughts(copycat):
    asked = {"messages": [{"role": "user", "content": "1 + 2?"}], "max_tokens": 80, "tools": [ADD],
             "extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
    whole = litellm_chat(copycat, **asked)
    streamed = litellm.stream_chunk_builder(list(litellm_chat(copycat, stream=True, **asked)))
    for reply in (whole, streamed):
        message = reply.choices[0].message
        assert message.reasoning_content.strip() == "Hm."
        [call] = message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1, "b": 2})
        assert reply.choices[0].finish_reason == "tool_calls"
