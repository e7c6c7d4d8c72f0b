import pathlib
import re
import subprocess
import threading
from dataclasses import dataclass, field

import pytest
from support.kt import kt_path
from support.models import smollm2_path


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

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def server():
    """SmolLM2, for tests that do not change it."""
    running = Server.start(smollm2_path(), "--ctx", "2048", "--cache-lens", "8192")
    yield running
    assert running.stop() == 0
