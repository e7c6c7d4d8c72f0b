"""Endpoints of our own, keys, hosts, origins, and the page's files."""
import gzip
import http.client
import json
import re
import signal
import ssl
import subprocess
import time

import pytest
from support.server import Server
from support.kt import kt_path
from support.models import tiny_moe_path


def request(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
    reply = connection.getresponse()
    return reply.status, dict(reply.getheaders()), reply.read()


def get(server, path, **headers):
    status, _, body = request(server, "GET", path, headers=headers)
    return status, json.loads(body)


def test_health_props_slots(server):
    assert get(server, "/health") == (200, {"status": "ok"})
    status, props = get(server, "/props")
    assert status == 200 and props["n_ctx"] == 2048 and props["model"] == server.model
    assert props["capabilities"]["thinking"] is False
    assert set(get(server, "/slots")[1]) == {"running", "waiting", "cache_used"}


def test_tokens_and_templates(server):
    body = json.loads(request(server, "POST", "/tokenize", {"content": "Hello, world", "with_pieces": True})[2])
    assert "".join(t["piece"] for t in body["tokens"]) == "Hello, world"
    ids = [t["id"] for t in body["tokens"]]
    assert json.loads(request(server, "POST", "/detokenize", {"tokens": ids})[2])["content"] == "Hello, world"
    rendered = request(server, "POST", "/apply-template", {"messages": [{"role": "user", "content": "Hi"}]})[2]
    assert json.loads(rendered)["prompt"].endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_metrics_count(server):
    def value(name):
        text = request(server, "GET", "/metrics")[2].decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
    before = value("vllm:generation_tokens_total")
    request(server, "POST", "/v1/completions", {"prompt": "One two", "max_tokens": 5, "ignore_eos": True})
    assert value("vllm:generation_tokens_total") == before + 5
    assert value("kt_http_requests_total{handler=\"/v1/completions\"") >= 1
    assert value("vllm:time_to_first_token_seconds_count") >= 1


def test_the_board_shows_what_there_is(server, root):
    text = request(server, "GET", "/metrics")[2].decode()
    board = json.loads((root / "packaging/grafana.json").read_text())
    names = {name for panel in board["panels"] for target in panel["targets"]
             for name in re.findall(r"(?:vllm:|kt_)\w+", target["expr"])}
    assert len(names) > 8 and all(name in text for name in names)


def test_placement_tells_what_runs_where(server):
    get(server, "/placement")
    request(server, "POST", "/v1/completions", {"prompt": "One two", "max_tokens": 20, "ignore_eos": True})
    modules = get(server, "/placement")[1]["modules"]
    by_path = {m["path"]: m for m in modules}
    down = by_path["model.layers.0.mlp.down_proj"]
    assert down["operator"] == "KLinearCPUInfer" and down["device"] == "cpu" and down["bytes"] > 0
    assert 0 < down["share"] < 1


def test_the_page(server):
    status, headers, body = request(server, "GET", "/", headers={"accept": "text/html", "accept-encoding": "gzip"})
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    page = gzip.decompress(body).decode()
    assert "default-src 'none'" in headers["content-security-policy"]
    script = page.split('src="./')[1].split('"')[0]
    status, headers, body = request(server, "GET", "/web/" + script)
    assert status == 200 and "immutable" in headers["cache-control"]
    assert request(server, "GET", "/" + script, headers={"if-none-match": headers["etag"]})[0] == 304
    assert request(server, "GET", "/web")[0] == 308
    assert request(server, "GET", "/web/nothing.js")[0] == 404


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/health", 405), ("PUT", "/", 405),
    ("GET", "/v1/models/%2e%2e/x", 400), ("GET", "/web/../../etc/passwd", 400), ("GET", "/%zz", 400),
    ("GET", "/%00", 400), ("GET", "/web/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400), ("HEAD", "/health", 200)])
def test_addresses(server, method, path, status):
    got, headers, _ = request(server, method, path)
    assert got == status
    assert headers["Content-Type"] == "application/json"


def test_other_hosts_and_origins_are_refused(server):
    for headers in ({"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": "127.evil.example"},
                    {"Host": "127.0.0.1.evil.example"}, {"Origin": "https://127.evil.example"}, {"Origin": "https://evil.example"}):
        status, body = get(server, "/v1/models", **headers)
        assert status == 403 and body["error"]["type"] == "permission_error"
    for host in ("localhost", "127.0.0.1:1", "[::1]:8", "page.localhost"):
        assert get(server, "/v1/models", Host=host)[0] == 200
    origin = "http://localhost:3000"
    status, headers, _ = request(server, "OPTIONS", "/v1/chat/completions", headers={
        "Origin": origin, "Access-Control-Request-Headers": "authorization,x-stainless-os"})
    assert status == 204
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-headers"] == "authorization,x-stainless-os"


@pytest.fixture
def keyed(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# two\nsesame\nopen\n")
    log = tmp_path / "log.jsonl"
    running = Server.start(tiny_moe_path(), "--api-key-file", keys, "--log-jsonl", log, "--model-name", "tiny")
    running.keys, running.log = keys, log
    yield running
    if running.process.poll() is None:
        running.stop()


def test_keys_are_wanted_and_read_anew(keyed):
    body = {"prompt": "Once", "max_tokens": 2}
    status, headers, text = request(keyed, "POST", "/v1/completions", body)
    assert status == 401 and json.loads(text)["error"]["code"] == "invalid_api_key"
    for headers in ({"Authorization": "Bearer sesame"}, {"x-api-key": "open"}, {"authorization": "bearer open"}):
        assert request(keyed, "POST", "/v1/completions", body, headers)[0] == 200
    for key in ("", "sesam", "sesamee", "sesamesesame"):
        assert request(keyed, "POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})[0] == 401
    assert get(keyed, "/v1/models")[0] == get(keyed, "/health")[0] == 200
    keyed.keys.write_text("new\n")
    keyed.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 10
    while request(keyed, "POST", "/v1/completions", body, {"x-api-key": "new"})[0] != 200:
        assert time.monotonic() < end
    assert request(keyed, "POST", "/v1/completions", body, {"x-api-key": "open"})[0] == 401


def test_the_log_has_no_prompts(keyed):
    headers = {"x-api-key": "open", "x-request-id": "mine"}
    status, replied, _ = request(keyed, "POST", "/v1/completions", {"prompt": "Once secret", "max_tokens": 3}, headers)
    assert status == 200 and replied["x-request-id"] == "mine"
    assert request(keyed, "GET", "/health")[1]["x-request-id"].startswith("req_")
    keyed.stop()
    text = keyed.log.read_text()
    assert "secret" not in text
    line = next(json.loads(x) for x in text.splitlines() if "completion_tokens" in x)
    assert line["request_id"] == "mine" and line["status"] == 200 and line["path"] == "/v1/completions"
    assert line["prompt_tokens"] > 0 and line["completion_tokens"] <= 3


def test_models_without_a_template_complete_text_only(keyed):
    status, _, text = request(keyed, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]},
                              {"x-api-key": "open"})
    assert (status, "no chat template" in text.decode()) in ((400, True), (200, False))


def test_https(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out",
                    certificate], check=True, capture_output=True)
    running = Server.start(tiny_moe_path(), "--ssl-certfile", certificate, "--ssl-keyfile", key)
    trusted = ssl.create_default_context(cafile=certificate)
    connection = http.client.HTTPSConnection("localhost", running.port, timeout=60, context=trusted)
    for _ in range(2):
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "Once", "max_tokens": 3, "stream": True}))
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    with pytest.raises(ssl.SSLError):
        http.client.HTTPSConnection("localhost", running.port, context=ssl.create_default_context()).request("GET", "/")
    plain = http.client.HTTPConnection("localhost", running.port, timeout=60)
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.request("GET", "/health")
        plain.getresponse()
    assert running.stop() == 0
    refused = subprocess.run([kt_path(), "serve", tiny_moe_path(), "--ssl-certfile", key, "--ssl-keyfile", key],
                             capture_output=True, text=True, check=False)
    assert refused.returncode == 4 and "is no certificate" in refused.stderr
