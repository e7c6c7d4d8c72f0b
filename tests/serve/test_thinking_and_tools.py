"""Thoughts and calls of a real reply, in every protocol and through its own client."""
import anthropic
import ollama
import openai
import pytest

MESSAGES = [{"role": "user", "content": "1 + 2?"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": SCHEMA}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
GREEDY = {"temperature": 0, "num_predict": 80}
ADDED = {"a": 1, "b": 2}


class TestOllama:
    @pytest.fixture
    def chat(self, copycat):
        client = ollama.Client(host=copycat.url)
        return lambda **fields: client.chat(copycat.model, MESSAGES, options=GREEDY, **fields)

    def test_capabilities(self, copycat):
        assert ollama.Client(host=copycat.url).show(copycat.model).capabilities == ["completion", "tools", "thinking"]

    def test_whole(self, chat):
        reply = chat(tools=CHAT_TOOLS)
        assert (reply.message.thinking.strip(), reply.message.content.strip()) == ("Hm.", "I add.")
        [call] = reply.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("add", ADDED)
        assert reply.done_reason == "stop"

    def test_stream(self, chat):
        whole, pieces = chat(tools=CHAT_TOOLS).message, list(chat(tools=CHAT_TOOLS, stream=True))
        assert "".join(piece.message.thinking or "" for piece in pieces) == whole.thinking
        assert "".join(piece.message.content for piece in pieces) == whole.content
        [calls] = [piece.message.tool_calls for piece in pieces if piece.message.tool_calls]
        assert [call.function.arguments for call in calls] == [ADDED]
        assert pieces[-1].done and not pieces[-1].message.tool_calls

    @pytest.mark.parametrize("think, thought", [(None, "Hm."), (True, "Hm."), ("low", "Hm."), (False, None)])
    def test_think(self, chat, think, thought):
        message = chat(think=think).message
        assert message.content.strip() == "Three."
        assert (message.thinking and message.thinking.strip()) == thought

    def test_generate(self, copycat):
        client = ollama.Client(host=copycat.url)
        reply = client.generate(copycat.model, "1 + 2?", think=True, options=GREEDY)
        assert (reply.thinking.strip(), reply.response.strip()) == ("Hm.", "Three.")

    def test_a_cut_off_call_is_left_out(self, copycat):
        client = ollama.Client(host=copycat.url)
        reply = client.chat(copycat.model, MESSAGES, tools=CHAT_TOOLS, think=False,
                            options={"temperature": 0, "num_predict": 24})
        assert reply.done_reason == "length" and not reply.message.tool_calls


class TestAnthropic:
    FIELDS = {"max_tokens": 80, "messages": MESSAGES, "extra_body": {"temperature": 0},
              "tools": [{"name": "add", "input_schema": SCHEMA}], "thinking": {"type": "enabled", "budget_tokens": 40}}

    @pytest.fixture
    def messages(self, copycat):
        return anthropic.Anthropic(base_url=copycat.url, api_key="none", max_retries=0).messages

    def check(self, message):
        thought, text, call = message.content
        assert (thought.type, thought.thinking.strip(), thought.signature) == ("thinking", "Hm.", "")
        assert (text.type, text.text.strip()) == ("text", "I add.")
        assert (call.type, call.name, call.input) == ("tool_use", "add", ADDED)
        assert message.stop_reason == "tool_use" and message.stop_sequence is None

    def test_whole(self, messages, copycat):
        self.check(messages.create(model=copycat.model, **self.FIELDS))

    def test_stream(self, messages, copycat):
        with messages.stream(model=copycat.model, **self.FIELDS) as stream:
            self.check(stream.get_final_message())

    def test_thinks_when_asked_only(self, messages, copycat):
        message = messages.create(model=copycat.model, **self.FIELDS | {"thinking": {"type": "disabled"}, "tools": []})
        assert [block.type for block in message.content] == ["text"]

    def test_blocks_go_back(self, messages, copycat):
        reply = messages.create(model=copycat.model, **self.FIELDS)
        result = {"type": "tool_result", "tool_use_id": reply.content[2].id, "content": "3"}
        more = MESSAGES + [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
        self.check(messages.create(model=copycat.model, **self.FIELDS | {"messages": more}))

    def test_calls_may_be_forbidden(self, messages, copycat):
        message = messages.create(model=copycat.model, **self.FIELDS | {"tool_choice": {"type": "none"}})
        assert message.content[-1].text.strip() == "Three."


class TestBegunReplies:
    @pytest.fixture
    def go_on(self, copycat):
        chat = openai.OpenAI(base_url=copycat.url + "/v1", api_key="none", max_retries=0).chat.completions
        def go_on(**begun):
            message = chat.create(model=copycat.model, messages=[*MESSAGES, {"role": "assistant", **begun}],
                                  temperature=0, max_tokens=80,
                                  extra_body={"chat_template_kwargs": {"enable_thinking": True}}).choices[0].message
            return getattr(message, "reasoning_content", None), message.content
        return go_on

    def test_in_the_midst_of_thoughts(self, go_on):
        assert go_on(reasoning_content="Hm", content="") == (".", "Three.")

    def test_after_thoughts(self, go_on):
        assert go_on(reasoning_content="Hm.", content="Three") == (None, ".")


class TestResponses:
    @pytest.fixture
    def responses(self, copycat):
        return openai.OpenAI(base_url=copycat.url + "/v1", api_key="none", max_retries=0).responses

    @pytest.fixture
    def fields(self, copycat):
        return {"model": copycat.model, "input": "1 + 2?", "temperature": 0, "max_output_tokens": 80,
                "tools": [{"type": "function", **FUNCTION}],
                "extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}

    def check(self, response):
        thought, message, call = response.output
        assert (thought.type, thought.content[0].text.strip()) == ("reasoning", "Hm.")
        assert (message.type, message.content[0].text.strip()) == ("message", "I add.")
        assert (call.type, call.name, call.status) == ("function_call", "add", "completed")
        assert call.arguments.replace(" ", "") == '{"a":1,"b":2}' and call.call_id
        assert response.status == "completed" and response.usage.output_tokens_details.reasoning_tokens > 0

    def test_whole(self, responses, fields):
        self.check(responses.create(**fields))

    def test_stream(self, responses, fields):
        with responses.stream(**fields) as stream:
            self.check(stream.get_final_response())

    def test_items_go_back(self, responses, fields):
        first = responses.create(**fields)
        result = {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "3"}
        items = [{"role": "user", "content": "1 + 2?"}, *first.output, result]
        self.check(responses.create(**fields | {"input": items}))
