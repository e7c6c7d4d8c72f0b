"""The chat page: its types and unit tests, and the browser tests against a running server."""
import os
import pathlib
import subprocess


NODE = pathlib.Path(os.environ["KT_PYTHON"]).parent  # a package of the Python environment


def run(root, kind: str, **env: str) -> None:
    done = subprocess.run([root / "tools" / "test_web.sh", kind], capture_output=True, text=True, timeout=900,
                          check=False,
                          env=os.environ | {"PATH": f"{NODE}:{os.environ['PATH']}"} | env)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_units(root):
    run(root, "unit")


def test_in_a_browser(root, server):
    run(root, "page", KT_WEB_URL=server.url)


def test_lock_file_names_no_registry(root):
    lock = (root / "apps" / "web" / "package-lock.json").read_text()
    assert '"resolved"' not in lock, "run npm install --omit-lockfile-registry-resolved"
