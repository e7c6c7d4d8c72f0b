"""The official JavaScript SDKs against running servers: each script of js/ is a set of tests of Node's own runner."""
import os
import pathlib
import subprocess

import pytest

SCRIPTS = sorted((pathlib.Path(__file__).parent / "js").glob("*.test.mjs"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name.partition(".")[0])
def test_sdk(server, copycat, script):
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", "--test-timeout=300000", str(script)], capture_output=True, text=True,
        env=os.environ | {"KT_URL": server.url, "KT_MODEL": server.model, "KT_COPYCAT_URL": copycat.url})
    assert done.returncode == 0, done.stdout + done.stderr
