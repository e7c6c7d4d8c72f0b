"""Everything at once: streams that are broken off, tool calls, embeddings, models that come and go, names that are
given anew, new keys, and an end in the middle. `./dev sanitize thread` runs it with the thread sanitizer, which ends
the server with an error."""
import concurrent.futures
import http.client
import json
import random
import signal

import pytest
from support.models import tiny_moe_path
from support.server import Server

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}]
TEMPLATE = """{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}{%- if tools %}<tool_call>{{ tools | tojson }}</tool_call>{% endif -%}<|im_start|>assistant
"""


def stream(server, random_, model):
    return "/v1/completions", {"model": model, "prompt": "Once upon a time " * random_.randrange(1, 30), "stream": True,
                               "max_tokens": random_.randrange(1, 60), "ignore_eos": True}


def several(server, random_, model):
    return "/v1/completions", {"model": model, "prompt": ["One", "Two"], "n": 2, "max_tokens": 10}


def call(server, random_, model):
    return "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Add."}], "tools": TOOLS,
                                    "tool_choice": "required", "max_tokens": 40, "stream": True}


def embed(server, random_, model):
    return "/v1/embeddings", {"model": model, "input": ["A text"] * random_.randrange(1, 6)}


def name(server, random_, model):
    return "/api/create", {"model": "named", "from": server.model, "system": f"Be {random_.random()}.", "template": TEMPLATE}


def look(server, random_, model):
    return random_.choice(["/metrics", "/placement", "/v1/models", "/slots", "/api/ps", "/props"]), None


def client(server, seed):
    """Some requests of one client, a third of them broken off; the statuses that came."""
    random_ = random.Random(seed)
    statuses = []
    for _ in range(8):
        kind = random_.choices([stream, several, call, embed, name, look], [4, 1, 3, 2, 1, 2])[0]
        path, body = kind(server, random_, random_.choice(["", "named", "named", "second", "third"]))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, {"x-api-key": "sesame"})
        reply = connection.getresponse()
        statuses.append(reply.status)
        if random_.randrange(3) == 0:
            reply.read(20)
        else:
            reply.read()
        connection.close()
    return statuses


@pytest.fixture
def server(tmp_path):
    keys, template = tmp_path / "keys", tmp_path / "template.jinja"
    keys.write_text("sesame\n")
    template.write_text(TEMPLATE)
    return Server.start(tiny_moe_path(), f"second={tiny_moe_path()}", f"third={tiny_moe_path()}", "--ctx", "512",
                        "--cache-lens", "2048", "--max-batch-size", "8", "--keep-alive", "0.5", "--api-key-file", keys,
                        "--chat-template", template, "--log-jsonl", tmp_path / "log", "--drain", "1")


def test_sixteen_clients_then_an_end_in_the_middle(server):
    assert server.request("POST", *name(server, random.Random(), ""), {"x-api-key": "sesame"})[0] == 200
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = [pool.submit(client, server, seed) for seed in range(16)]
        while not all(reply.done() for reply in replies):
            server.process.send_signal(signal.SIGHUP)  # the keys are read anew
            concurrent.futures.wait(replies, timeout=0.2)
        assert {status for reply in replies for status in reply.result()} == {200}
        connections = []
        for seed in range(8):
            path, body = stream(server, random.Random(seed), ["", "second"][seed % 2])
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
            connection.request("POST", path, json.dumps(body | {"max_tokens": 400}), {"x-api-key": "sesame"})
            connections.append(connection)
        assert connections[0].getresponse().status == 200
        assert server.stop() == 0, "".join(server.lines)
