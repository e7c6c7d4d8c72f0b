"""What goes wrong with one request, and must leave the others and the server as they are."""
import concurrent.futures
import http.client
import json
import time

import pytest
from support.models import smollm2_path, tiny_moe_path
from support.nan_model import BAD_TOKEN, write_nan_model
from support.server import Server, until

GOOD = {"prompt": [1, 5, 9, 300], "max_tokens": 60, "temperature": 0, "ignore_eos": True, "logit_bias": {str(BAD_TOKEN): -100}}
BAD = {"prompt": [1, 5, BAD_TOKEN, 9], "max_tokens": 8}


def begin(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, json.dumps(body))
    return connection


def end(connection):
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def post(server, path, body):
    return end(begin(server, path, body))


def get(server, path):
    status, _, body = server.request("GET", path)
    return status, body.decode()


def requests_counted(server):
    """Of kt_http_requests_total: (handler, status) → number."""
    counted = {}
    for line in get(server, "/metrics")[1].splitlines():
        if line.startswith("kt_http_requests_total{"):
            labels, n = line.rsplit(" ", 1)
            key = labels.split('handler="')[1].split('"')[0], int(labels.split('status="')[1].split('"')[0])
            counted[key] = counted.get(key, 0) + int(float(n))
    return counted


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nan")
    running = Server.start(write_nan_model(folder / "nan.gguf"), "--log-jsonl", folder / "log", "--ctx", "512")
    running.log = folder / "log"
    yield running
    assert running.stop() == 0


def test_nan_ends_its_request_alone(spoilt):
    alone = json.loads(post(spoilt, "/v1/completions", GOOD)[1])["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        good = [pool.submit(post, spoilt, "/v1/completions", GOOD | {"stream": True}) for _ in range(6)]
        bad = [pool.submit(post, spoilt, "/v1/completions", BAD | {"stream": i % 2 == 1}) for i in range(6)]
        for i, (status, text) in enumerate(reply.result() for reply in bad):
            if i % 2 == 0:
                assert status == 500 and json.loads(text)["error"]["type"] == "server_error"
                continue
            events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            assert status == 200 and events[-1]["error"]["type"] == "server_error" and "NaN" in events[-1]["error"]["message"]
            assert events[-1]["error"]["message"].endswith(", first in model.embed_tokens (cpu)")
            assert not any(choice["text"] for e in events[:-1] for choice in e["choices"])
        for status, text in (reply.result() for reply in good):
            assert status == 200 and text.endswith("data: [DONE]\n\n")
            events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            assert "".join(e["choices"][0]["text"] for e in events if e["choices"]) == alone
    assert json.loads(post(spoilt, "/v1/completions", GOOD)[1])["choices"][0]["text"] == alone
    assert requests_counted(spoilt)["/v1/completions", 500] == 6


@pytest.mark.parametrize("path, body, wanted", [
    ("/api/generate", {"raw": True}, lambda event: "NaN" in event["error"]),
    ("/v1/responses", {"stream": True}, lambda event: event["type"] in ("error", "response.failed")),
    ("/v1/messages", {"stream": True, "max_tokens": 8}, lambda event: event["error"]["type"] == "api_error")])
def test_nan_in_every_protocols_form(spoilt, path, body, wanted):
    word = json.loads(post(spoilt, "/detokenize", {"tokens": [BAD_TOKEN]})[1])["content"]
    assert BAD_TOKEN in json.loads(post(spoilt, "/tokenize", {"content": "x" + word})[1])["tokens"]
    prompt = {"/api/generate": {"prompt": "x" + word}, "/v1/responses": {"input": "x" + word}}
    message = prompt.get(path, {"messages": [{"role": "user", "content": "x" + word}]})
    status, text = post(spoilt, path, body | message | {"model": spoilt.model})
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: {", "{"))]
    assert status == 200 and wanted(json.loads(lines[-1])), text


def test_every_reply_is_counted_and_logged_once_as_it_ended():
    running = Server.start(tiny_moe_path(), "--log-jsonl", "-", "--ctx", "1024")
    long = GOOD | {"max_tokens": 1000, "stream": True}
    left = begin(running, "/v1/completions", long)
    left.getresponse().read(100)
    left.close()
    late = post(running, "/v1/completions", long | {"timeout": 0.05, "stream": False})
    assert late[0] == 408
    assert post(running, "/v1/embeddings", {"input": "x"})[0] == 200
    assert post(running, "/v1/embeddings", {"input": 3})[0] == 400
    assert get(running, "/nothing")[0] == 404
    assert get(running, "/placement")[0] == 200
    wanted = {("/v1/completions", 499): 1, ("/v1/completions", 408): 1, ("/v1/embeddings", 200): 1,
              ("/v1/embeddings", 400): 1, ("none", 404): 1, ("/placement", 200): 1}
    until(lambda: wanted.items() <= requests_counted(running).items())
    assert running.stop() == 0
    logged = [json.loads(line) for line in running.lines if line.startswith("{")]
    for (path, status), n in wanted.items():
        assert len([x for x in logged if x["status"] == status and path in (x["path"], "none")]) == n, (path, status)


def test_long_embeddings_let_others_through():
    running = Server.start(smollm2_path(), "--max-batch-size", "1", "--max-queue", "2")
    order = []
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        def ask(name, path, body):
            status, _ = post(running, path, body)
            order.append(name)
            return status
        texts = ["A text of some length about nothing at all, number " + str(i) for i in range(30)]
        long = pool.submit(ask, "many texts", "/v1/embeddings", {"input": texts})
        until(lambda: json.loads(get(running, "/slots")[1])["waiting"] > 0)
        short = [pool.submit(ask, "one text", "/v1/embeddings", {"input": "One"}),
                 pool.submit(ask, "tokens", "/v1/completions", {"prompt": "One", "max_tokens": 3})]
        assert [reply.result() for reply in (long, *short)] == [200, 200, 200]
    assert order[-1] == "many texts"
    assert running.stop() == 0


def test_embeddings_count_in_the_queue():
    running = Server.start(smollm2_path(), "--max-batch-size", "1", "--max-queue", "1")
    long = {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    connections = [begin(running, "/v1/completions", long)]
    until(lambda: json.loads(get(running, "/slots")[1])["running"] == 1)
    connections.append(begin(running, "/v1/completions", long))
    until(lambda: json.loads(get(running, "/slots")[1])["waiting"] == 1)
    status, text = post(running, "/v1/embeddings", {"input": "x"})
    assert status == 503 and json.loads(text)["error"]["code"] == "queue_full"
    # All of a request's replies find room, or none.
    connections[1].close()
    until(lambda: json.loads(get(running, "/slots")[1])["waiting"] == 0)
    assert post(running, "/v1/completions", {"prompt": ["x", "y"], "max_tokens": 1})[0] == 503
    assert json.loads(get(running, "/slots")[1])["waiting"] == 0
    for connection in connections:
        connection.close()
    assert running.stop() == 0


def test_looking_opens_no_model():
    running = Server.start(tiny_moe_path(), f"small={smollm2_path()}", "--ctx", "1024")
    for path in ("/health", "/metrics", "/props", "/slots", "/placement", "/v1/models/small", "/api/ps", "/api/tags"):
        assert get(running, path)[0] == 200
    status, text = post(running, "/api/show", {"model": "small"})
    shown = json.loads(text)
    assert status == 200 and "completion" in shown["capabilities"]
    assert shown["model_info"]["llama.context_length"] == 1024 and shown["details"]["parameter_size"] == "134.52M"
    models = {m["id"]: m["status"] for m in json.loads(get(running, "/v1/models")[1])["data"]}
    assert models["small"] == "unloaded"
    assert post(running, "/v1/completions", {"model": "small", "prompt": "x", "max_tokens": 1})[0] == 200
    assert json.loads(post(running, "/api/show", {"model": "small"})[1]) == shown
    assert running.stop() == 0


def test_a_model_stays_while_a_request_holds_it():
    """Closed as soon as it is idle, it is opened and closed again and again; no request may notice."""
    running = Server.start(tiny_moe_path(), f"second={tiny_moe_path()}", "--ctx", "256", "--keep-alive", "0")

    def ask(i):
        return post(running, "/v1/completions", GOOD | {"model": "second", "max_tokens": 1 + i % 3})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(ask, range(60)))
    assert [status for status, _ in replies] == [200] * 60
    assert running.stop() == 0


def test_a_heavy_prompt_holds_up_nobody(server):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        heavy = [pool.submit(post, server, "/v1/completions", {"prompt": "many words " * 250_000}) for _ in range(3)]
        answered = 0
        while not all(reply.done() for reply in heavy):
            assert get(server, "/health")[0] == 200
            answered += 1
        assert answered > 10  # while three were read
        for status, text in (reply.result() for reply in heavy):
            assert status == 400 and "the context holds" in text


@pytest.mark.parametrize("change, wanted, what", [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20000)}}}}}, 400, "response_format"),
    ({"regex": "(" * 400 + "a" + ")" * 400}, 400, "invalid regex"),
    ({"regex": "(" * 12 + "a" + "){1,1000}" * 12}, 500, "too many expressions")])  # found when it is used
def test_huge_schemas_and_expressions_are_refused(server, change, wanted, what):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4} | change
    status, text = post(server, "/v1/chat/completions", body)
    assert status == wanted and what in text
    assert get(server, "/health")[0] == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/tokenize"])
def test_bodies_that_nest_deep_are_refused(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, '{"a":' + "[" * 1_000_000)
    assert end(connection)[0] == 400


def test_a_template_without_an_end_is_stopped(tmp_path):
    template = tmp_path / "endless.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}{% if messages[0].content == 'go' %}"
                        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{% endif %}")
    running = Server.start(tiny_moe_path(), "--chat-template", template)
    for content, wanted in (("go", 500), ("stay", 200)):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2}
        assert post(running, "/v1/chat/completions", body)[0] == wanted
    assert running.stop() == 0
