"""Several models, opened when asked for; flags and configuration of the original server."""
import concurrent.futures
import http.client
import json
import os
import signal
import subprocess
import time

import pytest
from support.server import Server, until
from support.kt import kt_path
from support.models import smollm2_path, tiny_moe_path


def post(server, path, body):
    status, _, reply = server.request("POST", path, body)
    return status, json.loads(reply)


def states(server):
    return {m["id"]: m["status"] for m in json.loads(server.request("GET", "/v1/models")[2])["data"]}


@pytest.fixture(scope="module")
def server():
    running = Server.start(tiny_moe_path(), f"small={smollm2_path()}", "--ctx", "1024", "--keep-alive", "2")
    yield running
    assert running.stop() == 0


def test_a_model_is_opened_for_a_request_and_closed_after_it(server):
    assert states(server) == {"tiny-moe-q4_k_m": "loaded", "small": "unloaded"}
    body = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
    with concurrent.futures.ThreadPoolExecutor() as pool:  # all of them wait for the same opening
        replies = list(pool.map(lambda name: post(server, "/v1/completions", body | {"model": name}),
                                ["small", "SMALL", "small:latest", "tiny-moe-q4_k_m", ""]))
    assert [status for status, _ in replies] == [200] * 5
    assert [reply["model"] for _, reply in replies] == ["small"] * 3 + ["tiny-moe-q4_k_m"] * 2
    assert len({reply["choices"][0]["text"] for _, reply in replies[:3]}) == 1
    assert states(server)["small"] == "loaded"
    end = time.monotonic() + 30
    while states(server)["small"] != "unloaded":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert states(server)["tiny-moe-q4_k_m"] == "loaded"


def test_unknown_names_are_told_what_there_is(server):
    status, reply = post(server, "/v1/completions", {"prompt": "x", "model": "../../etc/passwd"})
    assert status == 404 and "tiny-moe-q4_k_m, small" in reply["error"]["message"]


def test_a_model_that_cannot_be_opened_says_why(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03\0\0\0 rubbish")
    running = Server.start(tiny_moe_path(), bad)
    status, reply = post(running, "/v1/completions", {"prompt": "x", "model": "bad"})
    assert status == 500 and "bad.gguf" in reply["error"]["message"]
    assert post(running, "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200
    assert running.stop() == 0


def test_two_models_of_one_name_are_refused():
    done = subprocess.run([kt_path(), "serve", tiny_moe_path(), f"TINY-MOE-Q4_K_M={smollm2_path()}"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "another model is served as" in done.stderr


def test_flags_and_configuration_of_the_original_server(tmp_path):
    (tmp_path / ".ktransformers").mkdir()
    (tmp_path / ".ktransformers/config.yaml").write_text(
        f"server: {{ip: 127.0.0.1, port: 1, api_key: ''}}\nmodel:\n  gguf_path: {tiny_moe_path()}\n"
        "  cache_lens: 512\n  type: balance_serve\nattn: {page_size: 256, chunk_size: 128}\n")
    process = subprocess.Popen([kt_path(), "serve", "--port=0", "--cpu_infer", "1", "--web", "True", "--model_name", "tm"],
                               stderr=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(tmp_path)})
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("serving"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert lines[-1].startswith("serving tm at http://127.0.0.1:")
    assert [x for x in lines if x.startswith("kt: ")] == ["kt: --web does nothing here: the page is always served\n"]
    assert any("512 tokens" in x and "1 threads" in x for x in lines)


def test_the_device_is_what_rules_want_it_for():
    """`--device` of kt serve is that of kt run: without rules an error, with them where modules are that none matches."""
    done = subprocess.run([kt_path(), "serve", tiny_moe_path(), "--port=0", "--device", "cuda:0"],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "--rules" in done.stderr and "does nothing" not in done.stderr


def test_requests_in_progress_end_before_the_server_does(server):
    running = Server.start(smollm2_path())
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(
        {"prompt": "Once", "max_tokens": 600, "ignore_eos": True, "stream": True}))
    reply = connection.getresponse()
    reply.read(100)
    running.process.send_signal(signal.SIGTERM)
    text = reply.read().decode()
    assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text
    assert running.process.wait(timeout=60) == 0


def slots(server):
    """Requests that run and that wait."""
    now = json.loads(server.request("GET", "/slots")[2])
    return now["running"], now["waiting"]


def test_a_client_that_goes_frees_its_place(server):
    running = Server.start(smollm2_path(), "--max-batch-size", "1", "--max-queue", "2")
    body = {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    connections = []
    for waiting in range(3):  # one runs, two wait
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(body))
        connections.append(connection)
        until(lambda: slots(running) == (1, waiting))  # noqa: B023
    status, reply = post(running, "/v1/completions", {"prompt": "x", "max_tokens": 1})
    assert status == 503 and reply["error"]["code"] == "queue_full"
    for connection in connections[:2]:
        connection.close()
    assert connections[2].getresponse().headers["x-queue-position"] == "1"  # it waited behind one
    connections[2].close()
    until(lambda: slots(running) == (0, 0))
    assert post(running, "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200
    assert running.stop() == 0
