"""Ollama's API: its own client, and the bytes on the wire."""
import http.client
import json
import re

import ollama
import pytest
from support.models import smollm2_path, tiny_moe_path
from support.server import Server

GREEDY = {"temperature": 0, "num_predict": 12}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


@pytest.fixture(scope="module")
def client(server):
    return ollama.Client(host=server.url)


def ask(server, method, path, body=None, headers=None):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers or {})
    reply = connection.getresponse()
    return reply.status, reply.headers, reply.read()


def error(server, path, body, method="POST"):
    status, headers, text = ask(server, method, path, body)
    assert headers["content-type"] == "application/json; charset=utf-8"
    said = json.loads(text)
    assert list(said) == ["error"] and isinstance(said["error"], str)
    return status, said["error"]


def chat_body(server, **fields):
    return {"model": server.model, "messages": [{"role": "user", "content": "Say hello."}], "options": GREEDY} | fields


def test_root(server):
    assert ask(server, "GET", "/")[2] == b"Ollama is running"
    status, headers, body = ask(server, "HEAD", "/")
    assert (status, body, headers["content-length"]) == (200, b"", "17")
    assert ask(server, "GET", "/", headers={"accept": "text/html,*/*"})[0] == 200


def test_version_is_numeric(server):
    version = json.loads(ask(server, "GET", "/api/version")[2])["version"]
    assert tuple(int(part) for part in version.split(".")) >= (0, 6, 4)
    assert ask(server, "HEAD", "/api/version")[0] == 200


def test_list(client, server):
    [model] = client.list().models
    assert model.model == server.model + ":latest"
    assert model.size > 50e6 and len(model.digest) == 64
    assert model.details.family == "llama" and model.details.format == "gguf"
    assert model.details.parameter_size == "134.52M" and model.details.quantization_level == "Q4_1"


def test_ps(client, server):
    [model] = client.ps().models
    assert model.model == server.model + ":latest" and model.context_length == 2048
    assert model.size > 50e6 and model.expires_at > model.expires_at.now(model.expires_at.tzinfo)


@pytest.mark.parametrize("spell", [str, str.upper, "{}:latest".format, "library/{}".format])
def test_show(client, server, spell):
    shown = client.show(spell(server.model))
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 2048
    assert shown.modelinfo["general.parameter_count"] == 134515008
    assert "<|im_start|>" in shown.template and shown.details.family == "llama"
    assert re.search(r"^temperature +\S+$", shown.parameters, re.MULTILINE)


def test_chat_stream_adds_up_to_the_whole(client, server):
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    whole = client.chat(server.model, messages, options=GREEDY)
    assert "Paris" in whole.message.content and whole.message.role == "assistant"
    assert whole.done and whole.done_reason in ("stop", "length")
    pieces = list(client.chat(server.model, messages, options=GREEDY, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == whole.eval_count and pieces[-1].prompt_eval_count == whole.prompt_eval_count
    assert 0 < pieces[-1].eval_duration < pieces[-1].total_duration


def test_generate_stream_adds_up_to_the_whole(client, server):
    whole = client.generate(server.model, "Name three colours.", options=GREEDY)
    pieces = list(client.generate(server.model, "Name three colours.", options=GREEDY, stream=True))
    assert whole.response and "".join(piece.response for piece in pieces) == whole.response
    assert pieces[-1].context == whole.context and len(whole.context) == whole.prompt_eval_count + whole.eval_count


def test_context_goes_on(client, server):
    first = client.generate(server.model, "My name is Ada.", options=GREEDY)
    alone = client.generate(server.model, "What is my name?", options=GREEDY)
    second = client.generate(server.model, "What is my name?", context=first.context, options=GREEDY)
    assert second.prompt_eval_count == len(first.context) + alone.prompt_eval_count
    assert second.context[:len(first.context)] == first.context


def test_system_changes_the_reply(client, server):
    plain = client.generate(server.model, "Hello", options=GREEDY)
    told = client.generate(server.model, "Hello", system="You are a pirate.", options=GREEDY)
    assert told.prompt_eval_count != plain.prompt_eval_count


def test_raw(client, server):
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    reply = client.generate(server.model, prompt, raw=True, options=GREEDY)
    assert "Paris" in reply.response and reply.context is None
    assert reply.prompt_eval_count < 20, "marks in a raw prompt are single tokens"


def test_the_bytes_of_a_stream(server):
    status, headers, body = ask(server, "POST", "/api/chat", chat_body(server))
    assert status == 200 and headers["content-type"] == "application/x-ndjson"
    lines = body.decode().split("\n")
    assert lines.pop() == ""
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert list(first) == ["model", "created_at", "message", "done"]
    assert first["model"] == server.model and first["done"] is False
    assert list(first["message"]) == ["role", "content"] and re.fullmatch(TIME, first["created_at"])
    assert list(last) == ["model", "created_at", "message", "done", "done_reason", "total_duration", "load_duration",
                          "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
    assert last["message"] == {"role": "assistant", "content": ""}
    assert all(isinstance(last[key], int) for key in last if key.endswith(("duration", "count")))


def test_whole_replies_are_json(server):
    status, headers, body = ask(server, "POST", "/api/chat", chat_body(server, stream=False))
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(body)["done"] is True and b"\n" not in body


def test_length_and_stop(client, server):
    messages = [{"role": "user", "content": "Count from one to ten."}]
    short = client.chat(server.model, messages, options={"temperature": 0, "num_predict": 2})
    assert (short.done_reason, short.eval_count) == ("length", 2)
    long = client.chat(server.model, messages, options={"temperature": 0, "num_predict": 40})
    word = long.message.content.split()[3]
    cut = client.chat(server.model, messages, options={"temperature": 0, "num_predict": 40, "stop": [word]})
    assert cut.done_reason == "stop" and cut.message.content == long.message.content.split(word)[0]


def test_seed(client, server):
    def text(seed):
        return client.generate(server.model, "Tell me a story.",
                               options={"seed": seed, "temperature": 1.5, "num_predict": 16, "top_k": 0, "top_p": 1,
                                        "min_p": 0}).response
    assert text(1) == text(1)
    assert text(1) != text(2)


def test_logprobs(client, server):
    reply = client.generate(server.model, "Hello", logprobs=True, options=GREEDY)
    assert len(reply.logprobs) == reply.eval_count and all(entry.logprob <= 0 for entry in reply.logprobs)


@pytest.mark.parametrize("keep_alive, reason", [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"),
                                                ("0s", "unload")])
def test_empty_requests(client, server, keep_alive, reason):
    said = client.generate(server.model, keep_alive=keep_alive)
    assert (said.done, said.done_reason, said.response) == (True, reason, "")
    said = client.chat(server.model, keep_alive=keep_alive)
    assert (said.done, said.done_reason, said.message.content) == (True, reason, "")


def test_unknown_model(client):
    with pytest.raises(ollama.ResponseError, match="model 'llama9' not found") as raised:
        client.chat("llama9", [{"role": "user", "content": "x"}])
    assert raised.value.status_code == 404


@pytest.mark.parametrize("fields, wanted", [
    ({"think": True}, '" does not support thinking'),
    ({"think": "high"}, '" does not support thinking'),
    ({"think": "hard"}, 'invalid think value: "hard"'),
    ({"format": {"type": "nonsense"}}, "response_format"),
    ({"format": 3}, "format"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, '" does not support tools'),
    ({"tools": [1]}, "tools"),
    ({"keep_alive": "soon"}, "keep_alive"),
    ({"options": {"num_ctx": 1 << 20}}, "2048 tokens that are served"),
    ({"options": {"temperature": "hot"}}, "options.temperature"),
    ({"options": {"top_p": 7}}, "options.top_p"),
    ({"options": {"num_predict": 1.5}}, "options.num_predict"),
    ({"options": {"mirostat": 2}}, "options.mirostat"),
    ({"options": []}, "options"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "x", "images": ["aGVsbG8="]}]}, "messages[0].images"),
    ({"messages": [{"role": "user", "content": "word " * 4000}]}, "the context holds 2048"),
    ({"model": None}, "model is required"),
])
def test_refused_chats(server, fields, wanted):
    status, said = error(server, "/api/chat", chat_body(server, **fields))
    assert status == 400 and wanted in said


@pytest.mark.parametrize("fields, wanted", [
    ({"raw": True, "system": "x"}, "raw mode does not support"),
    ({"template": "{{ .Prompt }}"}, "template"),
    ({"suffix": "x"}, '" does not support insert'),
    ({"images": ["aGVsbG8="]}, "images"),
    ({"context": [1 << 30]}, "context"),
    ({"prompt": 3}, "prompt"),
])
def test_refused_prompts(server, fields, wanted):
    status, said = error(server, "/api/generate", {"model": server.model, "prompt": "x"} | fields)
    assert status == 400 and wanted in said


def test_options_that_change_nothing(client, server):
    options = GREEDY | {"num_ctx": 512, "num_batch": 8, "unheard_of": True, "seed": -1}
    assert client.chat(server.model, [{"role": "user", "content": "Hi"}], options=options, think=False, format="",
                       keep_alive="1h30m").done


def test_results_of_tools_reach_the_template(client, server):
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages = [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_name": "add", "content": "3"}]
    assert client.chat(server.model, messages, options=GREEDY).done


def test_begun_reply_goes_on(client, server):
    messages = [{"role": "user", "content": "What is the capital of France?"},
                {"role": "assistant", "content": "The capital of France is"}]
    assert client.chat(server.model, messages, options=GREEDY).message.content.startswith(" Paris")


def test_embeddings(client, server):
    whole = client.embed(server.model, ["The cat sleeps.", "Interest rates rose."])
    assert len(whole.embeddings) == 2 and len(whole.embeddings[0]) == 576 and whole.prompt_eval_count > 6
    assert sum(x * x for x in whole.embeddings[0]) == pytest.approx(1, abs=1e-5)
    assert client.embed(server.model, "The cat sleeps.").embeddings[0] == pytest.approx(whole.embeddings[0], abs=1e-6)
    assert client.embeddings(server.model, "The cat sleeps.").embedding == pytest.approx(whole.embeddings[0], abs=1e-6)
    assert client.embed(server.model, []).embeddings == []


def names(client):
    return {model.model for model in client.list().models}


def test_pull_of_what_is_here(client, server):
    assert client.pull(server.model).status == "success"
    assert [step.status for step in client.pull(server.model, stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="no package is known to carry this model; known: smollm2") as raised:
        client.pull("llama9")
    assert raised.value.status_code == 404


def test_models_of_the_folder_are_served_when_pulled(tmp_path, monkeypatch):
    (tmp_path / "little.gguf").symlink_to(tiny_moe_path())
    monkeypatch.setenv("KT_MODELS", str(tmp_path))
    running = Server.start(smollm2_path(), "--ctx", "256", "--model-name", "first")
    client = ollama.Client(running.url)
    assert [step.status for step in client.pull("little", stream=True)] == ["pulling little", "success"]
    assert {name.split(":")[0] for name in names(client)} == {"first", "little"}
    reply = client.generate("little", "Once upon a time", options={"num_predict": 4, "temperature": 0}, raw=True)
    assert reply.response and reply.eval_count == 4
    client.delete("little")
    assert {name.split(":")[0] for name in names(client)} == {"first"}
    assert (tmp_path / "little.gguf").exists()
    with pytest.raises(ollama.ResponseError, match="the first model stays"):
        client.delete("first")
    assert running.stop() == 0


def test_a_model_may_have_several_names(client, server):
    ask_it = {"prompt": "The cat", "raw": True, "options": {"num_predict": 4, "temperature": 0}}
    before = names(client)
    client.copy(server.model, "second")
    assert client.create("third", from_="second").status == "success"
    assert len(names(client) - before) == 2
    replies = [client.generate(name, **ask_it) for name in (server.model, "second", "third:latest")]
    assert len({reply.response for reply in replies}) == 1
    assert len(client.ps().models) == 1
    for wrong, match in ((lambda: client.copy(server.model, "third"), "there is a model 'third' already"),
                         (lambda: client.copy("nobody", "x"), "not found"),
                         (lambda: client.copy(server.model, ""), "1 to 256 characters"),
                         (lambda: client.create("x"), "from"),
                         (lambda: client.delete("nobody"), "not found")):
        with pytest.raises(ollama.ResponseError, match=match):
            wrong()
    client.delete("second")
    client.delete("third")
    assert names(client) == before


@pytest.fixture
def created(client, server):
    """Makes names of the model that say more, which go with the test."""
    made = []

    def create(name, from_=server.model, **fields):
        assert client.create(name, from_=from_, **fields).status == "success"
        made.append(name)
        return name
    yield create
    for name in set(made):
        client.delete(name)


def answers(server, name, messages, **given):
    """What each protocol answers at most 8 tokens long, and how many tokens it counts in the prompt; `given` as OpenAI
    calls it."""
    def post(path, **body):
        status, _, text = ask(server, "POST", path, {"model": name} | body)
        assert status == 200, text
        return json.loads(text)
    options = {{"max_tokens": "num_predict"}.get(key, key): value for key, value in given.items()}
    chat = post("/v1/chat/completions", messages=messages, **given)
    said = post("/api/chat", messages=messages, options=options, stream=False)
    system = {"system": m["content"] for m in messages if m["role"] == "system"}
    message = post("/v1/messages", messages=[m for m in messages if m["role"] != "system"], **system, **{"max_tokens": 8} | given)
    response = post("/v1/responses", input=messages, **{{"max_tokens": "max_output_tokens"}.get(k, k): v for k, v in given.items()})
    return [(chat["choices"][0]["message"]["content"], chat["usage"]["prompt_tokens"]),
            (said["message"]["content"], said["prompt_eval_count"]),
            (message["content"][0]["text"], message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"]),
            (response["output"][0]["content"][0]["text"], response["usage"]["input_tokens"])]


USER = {"role": "user", "content": "What is your name?"}
SHOWN = [{"role": "user", "content": "Where do you live?"}, {"role": "assistant", "content": "On my ship."}]


def system(text):
    return {"role": "system", "content": text}


def test_created_names_say_their_part_by_every_protocol(client, server, created):
    created("pirate", system="You are a pirate.", messages=SHOWN, parameters={"temperature": 0, "num_predict": 8})
    plain = answers(server, server.model, [USER], temperature=0, max_tokens=8)
    told = answers(server, server.model, [system("You are a pirate."), *SHOWN, USER], temperature=0, max_tokens=8)
    assert len(set(told)) == len(set(plain)) == 1 and told[0] != plain[0]
    assert answers(server, "Pirate:latest", [USER]) == told
    prompt = client.generate("pirate", USER["content"])
    assert (prompt.response, prompt.prompt_eval_count) == told[0]
    assert answers(server, server.model, [USER], temperature=0, max_tokens=8) == plain


def test_what_a_request_says_itself_wins(server, created):
    created("pirate", system="You are a pirate.", messages=SHOWN, parameters={"temperature": 0, "num_predict": 8})
    own = [system("You are a king."), USER]
    wanted = answers(server, server.model, [own[0], *SHOWN, USER], temperature=0, max_tokens=3)
    assert answers(server, "pirate", own, max_tokens=3) == wanted


def test_stops_of_a_created_name(server, created):
    [(whole, _), *_] = answers(server, server.model, [USER], temperature=0, max_tokens=8)
    word = whole.split()[2]
    created("stops", parameters={"temperature": 0, "num_predict": 8, "stop": [word, "zebra"]})
    assert {text.rstrip() for text, _ in answers(server, "stops", [USER])} == {whole.split(word)[0].rstrip()}
    status, _, body = ask(server, "POST", "/v1/chat/completions", {"model": "stops", "messages": [USER], "stop": None})
    assert status == 200 and json.loads(body)["choices"][0]["finish_reason"] == "stop"
    _, _, body = ask(server, "POST", "/v1/chat/completions", {"model": "stops", "messages": [USER], "stop": []})
    assert json.loads(body)["choices"][0]["message"]["content"] == whole


def test_created_names_are_shown_and_created_anew(client, server, created):
    created("brief", system="Be brief.", license=["MIT", "BSD"], messages=SHOWN,
            parameters={"temperature": 0.5, "stop": ["a", "b"], "num_ctx": 512})
    shown = client.show("brief")
    assert re.findall(r"^(temperature|stop|num_ctx) +(\S+)$", shown.parameters, re.MULTILINE) == [
        ("temperature", "0.5"), ("stop", '"a"'), ("stop", '"b"'), ("num_ctx", "512")]
    assert shown.license == "MIT\nBSD" and shown.template == client.show(server.model).template
    assert 'SYSTEM """Be brief."""' in shown.modelfile and 'MESSAGE assistant """On my ship."""' in shown.modelfile
    assert json.loads(ask(server, "POST", "/api/show", {"model": "brief"})[2])["system"] == "Be brief."
    created("briefer", from_="brief", system="Be briefer.")
    client.copy("brief", "copied")
    created("brief", from_="brief", parameters={"top_k": 3})
    systems = {name: json.loads(ask(server, "POST", "/api/show", {"model": name})[2]).get("system")
               for name in ("brief", "briefer", "copied", server.model)}
    assert systems == {"brief": "Be brief.", "briefer": "Be briefer.", "copied": "Be brief.", server.model: None}
    assert re.search(r"^top_k +3$", client.show("brief").parameters, re.MULTILINE)
    assert re.search(r"^num_ctx +512$", client.show("briefer").parameters, re.MULTILINE)
    client.delete("copied")


def test_a_created_name_may_have_a_template_of_its_own(client, server, created):
    created("tagged", template="{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>",
            system="Be brief.", parameters={"temperature": 0, "num_predict": 8})
    prompt = f"<system> Be brief.\n<user> {USER['content']}\n<assistant>"
    assert json.loads(ask(server, "POST", "/apply-template", {"model": "tagged", "messages": [USER]})[2])["prompt"] == prompt
    raw = client.generate(server.model, prompt, raw=True, options={"temperature": 0, "num_predict": 8})
    assert {text for text, _ in answers(server, "tagged", [USER])} == {raw.response}
    assert client.show("tagged").template.startswith("{% for m in messages %}")


@pytest.mark.parametrize("fields, wanted", [
    ({"template": "{{ .System }} {{ .Prompt }}"}, "not in Go's"),
    ({"files": {"a.gguf": "sha256:" + "0" * 64}}, "files: cannot be given"),
    ({"adapters": {"a.gguf": "sha256:" + "0" * 64}}, "adapters: cannot be given"),
    ({"quantize": "q4_K_M"}, "quantize: cannot be given"),
    ({"parameters": {"top_p": 7}}, "parameters.top_p"),
    ({"parameters": {"num_ctx": 1 << 20}}, "2048 tokens that are served"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"system": 3}, "system"),
    ({"system": "word " * 300_000}, "1048576 bytes"),
    ({"model": None, "system": "x"}, "model is required"),
    ({"model": "{}", "system": "x"}, "there is a model"),
])
def test_what_a_name_cannot_be_given(client, server, fields, wanted):
    before = names(client)
    if fields.get("model"):
        fields = fields | {"model": server.model}
    status, said = error(server, "/api/create", {"model": "x", "from": server.model} | fields)
    assert status == 400 and wanted in said
    assert names(client) == before


def test_files_are_neither_taken_nor_sent_on(client, server):
    with pytest.raises(ollama.ResponseError, match="is not supported") as raised:
        client.push(server.model)
    assert raised.value.status_code == 400
    assert ask(server, "HEAD", "/api/blobs/sha256:" + "0" * 64)[0] == 404


def test_errors_of_the_server_are_texts(server):
    assert error(server, "/api/chat", "{")[0] == 400
    assert error(server, "/api/nothing", "{}")[0] == 404
    assert error(server, "/api/chat", None, "GET")[0] == 405


def test_a_reply_bound_to_a_schema(client, server):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    reply = client.chat(server.model, [{"role": "user", "content": "How old?"}], format=schema,
                        options={"temperature": 0, "num_predict": 60})
    assert isinstance(json.loads(reply.message.content)["age"], int)
