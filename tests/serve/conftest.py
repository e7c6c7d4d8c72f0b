"""Servers for the tests of the protocols, one for all tests."""
import pytest
from support.models import smollm2_path
from support.server import COPYCAT_TEMPLATE, Server


@pytest.fixture(scope="session")
def server():
    """SmolLM2, a small chat model without thoughts and tools, for tests that do not change it."""
    running = Server.start(smollm2_path(), "--ctx", "2048", "--cache-lens", "8192")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def copycat(tmp_path_factory):
    """A model that thinks and calls tools (support/server.py)."""
    template = tmp_path_factory.mktemp("copycat") / "copycat.jinja"
    template.write_text(COPYCAT_TEMPLATE)
    running = Server.start(smollm2_path(), "--ctx", "1024", "--chat-template", template, "--model-name", "copycat")
    yield running
    assert running.stop() == 0
