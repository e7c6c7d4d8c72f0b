"""Shared by all Python tests. Run by ./dev test, which sets KT_BUILD, KT_PYTHON and KT_TEST_CACHE; run by hand
with `pytest tests`, they default to build/ and a folder in the user's cache."""
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ktransformers"
# Absolute, because tests start programs in other folders.
os.environ["KT_BUILD"] = str(pathlib.Path(os.environ.get("KT_BUILD") or ROOT / "build").resolve())
os.environ.setdefault("KT_PYTHON", sys.executable)
os.environ.setdefault("KT_TEST_CACHE", str(CACHE / "test-data"))
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, os.path.join(os.environ["KT_BUILD"], "python"))  # the package ktransformers


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return ROOT


@pytest.fixture(scope="session")
def build() -> pathlib.Path:
    """The build folder; fails when nothing is built there."""
    folder = pathlib.Path(os.environ["KT_BUILD"])
    if not (folder / "bin").is_dir():
        pytest.fail(f"nothing is built in {folder}; run ./dev build")
    return folder
