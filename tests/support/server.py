"""Starts `kt serve` for tests."""
import http.client
import json
import pathlib
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field

from support.kt import kt_path


@dataclass
class Server:
    """A running `kt serve`."""
    process: subprocess.Popen
    model: str = ""
    port: int = 0
    lines: list = field(default_factory=list)  # of standard error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    def start(cls, model: pathlib.Path, *flags) -> "Server":
        server = cls(subprocess.Popen([kt_path(), "serve", str(model), "--port", "0", *map(str, flags)],
                                      stderr=subprocess.PIPE, text=True))
        for line in server.process.stderr:
            server.lines.append(line)
            if found := re.match(r"serving (.+) at https?://.*:(\d+)", line):
                server.model, server.port = found[1], int(found[2])
                threading.Thread(target=server.lines.extend, args=(server.process.stderr,), daemon=True).start()
                return server
        raise AssertionError("kt serve ended: " + "".join(server.lines))

    def request(self, method: str, path: str, body=None, headers=None):
        """(status, headers, body) of one request; an object goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)


def until(condition) -> None:
    """Waits for it, a minute at most."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


# The small model copies what stands six times before its turn, whatever it is asked: it thinks "Hm." where that is on,
# and says "I add." and calls add(1, 2) where there are tools, else "Three.".
COPYCAT_TEMPLATE = r"""
{%- set call = 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>' -%}
{%- set reply = ('<think>\nHm.\n</think>\n' if enable_thinking else '') ~ (call if tools else 'Three.') -%}
{%- for i in range(6) -%}<|im_start|>assistant
{{ reply }}<|im_end|>
{% endfor -%}<|im_start|>assistant{{ '\n' }}"""
