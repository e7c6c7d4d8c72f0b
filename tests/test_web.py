"""The chat page: its types and unit tests, and the browser tests when KT_WEB_URL names a server to run them against."""
import os
import subprocess

import pytest


def run(root, kind: str) -> None:
    done = subprocess.run([root / "tools" / "test_web.sh", kind], capture_output=True, text=True, timeout=900,
                          check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_units(root):
    run(root, "unit")


def test_in_a_browser(root):
    if not os.environ.get("KT_WEB_URL"):
        pytest.skip("KT_WEB_URL names no server")
    run(root, "page")


def test_lock_file_names_no_registry(root):
    lock = (root / "apps" / "web" / "package-lock.json").read_text()
    assert '"resolved"' not in lock, "run npm install --omit-lockfile-registry-resolved"
