"""Traces of requests, sent to a collector of OpenTelemetry as JSON over HTTP."""
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import uuid

import pytest
from support.kt import run_kt
from support.models import smollm2_path
from support.server import Server, until


class Collector:
    """Takes what is posted to /v1/traces; `status` is its answer."""

    def __init__(self, port: int = 0):
        self.bodies, self.status = [], 200
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces" and self.headers["content-type"] == "application/json"
                if collector.status == 200:
                    collector.bodies.append(json.loads(body))
                self.send_response(collector.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self):
        return [span for body in self.bodies for r in body["resourceSpans"] for s in r["scopeSpans"] for span in s["spans"]]

    def trace(self, trace_id):
        """The spans of one trace, once its first is there."""
        def found():
            return [span for span in self.spans() if span["traceId"] == trace_id]
        until(found)
        return found()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def collector():
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def traced(collector):
    server = Server.start(smollm2_path(), "--ctx", "1024", "--otlp-endpoint", f"http://127.0.0.1:{collector.port}")
    yield server
    assert server.stop() == 0


def post(server, path, body, trace_id=None, sampled=True):
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-0{int(sampled)}"} if trace_id else {}
    status, _, reply = server.request("POST", path, body, headers)
    return status, reply


def chat(server, **fields):
    return {"model": server.model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 6,
            "temperature": 0, "ignore_eos": True} | fields


def plain(value):
    """An AnyValue of OTLP as what it means."""
    [(kind, inner)] = value.items()
    if kind == "arrayValue":
        return [plain(v) for v in inner["values"]]
    assert isinstance(inner, {"stringValue": str, "intValue": str, "doubleValue": (int, float), "boolValue": bool}[kind])
    return int(inner) if kind == "intValue" else inner


def check_shape(body):
    """What every message of OTLP/HTTP in JSON has."""
    assert list(body) == ["resourceSpans"]
    for resource in body["resourceSpans"]:
        names = {a["key"]: plain(a["value"]) for a in resource["resource"]["attributes"]}
        assert names["service.name"] == "ktransformers" and names["service.version"]
        for scope in resource["scopeSpans"]:
            assert scope["scope"]["name"] and scope["spans"]
            for span in scope["spans"]:
                assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
                assert re.fullmatch("[0-9a-f]{16}", span.get("parentSpanId", "0" * 16)) and span["kind"] in (1, 2)
                assert isinstance(span["startTimeUnixNano"], str) and isinstance(span["name"], str)
                assert 0 < int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
                assert len({a["key"] for a in span["attributes"]}) == len([plain(a["value"]) for a in span["attributes"]])


@pytest.mark.parametrize("path, name, more", [
    ("/v1/chat/completions", "chat", {}), ("/v1/chat/completions", "chat", {"stream": True}), ("/v1/messages", "chat", {}),
    ("/v1/completions", "text_completion", {"prompt": "Once"}), ("/api/chat", "chat", {"options": {"num_predict": 6}})])
def test_a_request_is_one_span_with_its_phases(traced, collector, path, name, more):
    trace_id = uuid.uuid4().hex
    before = time.time()
    assert post(traced, path, chat(traced, **more), trace_id)[0] == 200
    after = time.time()
    request, *phases = collector.trace(trace_id)
    check_shape(collector.bodies[-1])
    assert request["name"] == f"{name} {traced.model}" and request["kind"] == 2
    assert request["parentSpanId"] == "00f067aa0ba902b7"
    assert [p["name"] for p in phases] == ["queue", "prefill", "decode"]
    assert all(p["parentSpanId"] == request["spanId"] and p["kind"] == 1 for p in phases)
    edges = [int(request["startTimeUnixNano"]), *(int(p["startTimeUnixNano"]) for p in phases),
             int(phases[-1]["endTimeUnixNano"])]
    assert edges == sorted(edges) and edges[-1] <= int(request["endTimeUnixNano"])
    assert before - 0.01 < edges[0] * 1e-9 and int(request["endTimeUnixNano"]) * 1e-9 < after + 0.01
    told = {a["key"]: plain(a["value"]) for a in request["attributes"]}
    assert told["gen_ai.operation.name"] == name and told["gen_ai.request.model"] == traced.model
    assert told["gen_ai.usage.output_tokens"] == 6 == told["gen_ai.request.max_tokens"]
    assert told["gen_ai.usage.input_tokens"] > 0 and told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["http.route"] == path and told["http.response.status_code"] == 200


def test_refusals_are_spans_too(traced, collector):
    assert post(traced, "/v1/chat/completions", chat(traced, model="other"), "a" * 32)[0] == 404
    [span] = collector.trace("a" * 32)
    told = {a["key"]: plain(a["value"]) for a in span["attributes"]}
    assert told["error.type"] == "model_not_found" and told["http.response.status_code"] == 404


def test_a_trace_begins_here_and_may_be_left_out(traced, collector):
    post(traced, "/v1/chat/completions", chat(traced), "b" * 32, sampled=False)
    n = len(collector.spans())
    post(traced, "/v1/chat/completions", chat(traced))
    until(lambda: len(collector.spans()) >= n + 4)
    assert "parentSpanId" not in collector.spans()[n]
    assert not any(span["traceId"] == "b" * 32 for span in collector.spans())


def test_no_text_is_sent(traced, collector):
    post(traced, "/v1/chat/completions", chat(traced, messages=[{"role": "user", "content": "xyzzy"}]), "c" * 32)
    collector.trace("c" * 32)
    assert "xyzzy" not in json.dumps(collector.bodies)


def counters(server):
    text = server.request("GET", "/metrics")[2].decode()
    return [int(n) for n in re.findall(r"^kt_trace_spans_\w+_total (\d+)$", text, re.M)]


def test_a_collector_that_is_away_costs_its_spans_only(collector):
    away = Collector()
    away.close()
    server = Server.start(smollm2_path(), "--ctx", "1024", "--otlp-endpoint", f"http://127.0.0.1:{away.port}")
    assert post(server, "/v1/chat/completions", chat(server))[0] == 200
    until(lambda: counters(server) == [0, 4])
    assert any("traces do not reach" in line for line in server.lines)
    back = Collector(away.port)
    assert post(server, "/v1/chat/completions", chat(server))[0] == 200
    assert server.stop() == 0  # sends what waits
    assert len(back.spans()) == 4
    back.close()


SLOW_NAMES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  while (node && strcmp(node, "slow.invalid") == 0) pause();
  int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(node, service, hints, found);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_collector_whose_name_is_never_found_holds_up_nothing(tmp_path, monkeypatch):
    (tmp_path / "slow.c").write_text(SLOW_NAMES)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "slow.so", tmp_path / "slow.c", "-ldl"], check=True)
    with monkeypatch.context() as preloaded:
        preloaded.setenv("LD_PRELOAD", str(tmp_path / "slow.so"))
        server = Server.start(smollm2_path(), "--ctx", "1024", "--otlp-endpoint", "http://slow.invalid:4318")
    assert post(server, "/v1/chat/completions", chat(server))[0] == 200
    until(lambda: counters(server) == [0, 4])
    assert any("could not be looked up in time" in line for line in server.lines)
    assert post(server, "/v1/chat/completions", chat(server))[0] == 200
    began = time.monotonic()
    assert server.stop() == 0  # tries once more
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("url", ["https://127.0.0.1:4318", "127.0.0.1:4318", "http://", "http://a:x", "http://a:99999"])
def test_addresses_that_are_none(url):
    done = run_kt("serve", smollm2_path(), "--port", 0, "--otlp-endpoint", url, check=False)
    assert done.returncode != 0 and "http://HOST:PORT" in done.stderr
