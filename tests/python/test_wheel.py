"""The wheel: what it carries, and that it works in an environment with nothing else in it."""
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from support.models import tiny_moe_path

ROOT = pathlib.Path(__file__).resolve().parents[2]
USE = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None  # importing either would fail
import ktransformers
with ktransformers.Engine(sys.argv[1], threads=1) as engine:
    print(engine.generate("Once upon a time", max_tokens=12, temperature=0).text)
    assert (ktransformers.RULES / "Mixtral.yaml").exists()
    print(memoryview(engine.logits([0, 5, 9])).shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built by ./dev wheel, with what the compiler cache has from the build before."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([ROOT / "dev", "wheel", "--outdir", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> pathlib.Path:
    """Python of an environment that has the wheel alone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index",
                    "--disable-pip-version-check", wheel], check=True)
    return python


def run(*command) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=300, env=env,
                          cwd="/")


def test_what_the_wheel_carries(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("ktransformers/engine.py", "ktransformers/py.typed", "ktransformers/_native.pyi",
                   "ktransformers/bin/kt", "ktransformers/rules/DeepSeek-V3-Chat.yaml",
                   "ktransformers/rules/rocm/DeepSeek-V3-Chat.yaml"):
        assert wanted in names
    assert any(name.startswith("ktransformers/_native.") and name.endswith(".so") for name in names)
    assert not [name for name in names if not name.startswith("ktransformers")]
    assert not [name for name in names if "test" in name or name.endswith((".a", ".h", ".cc"))]


def test_binaries_need_glibc_only(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    binaries = [tmp_path / "ktransformers/bin/kt", *(tmp_path / "ktransformers").glob("_native.*.so")]
    assert len(binaries) == 2
    for binary in binaries:
        header = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
        needed = {line.split("[")[1].split(".so")[0] for line in header.splitlines() if "(NEEDED)" in line}
        assert needed <= {"libc", "libm", "ld-linux-x86-64"}, binary


def test_engine_runs_without_torch_and_numpy(python):
    done = run(python, "-c", USE, tiny_moe_path())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [", in a house near the sea, there lived a gentle", "(3, 2048)"]


def test_kt_is_the_native_program(python):
    kt = python.parent / "kt"
    version = run(kt, "--version")
    assert version.returncode == 0 and version.stdout.startswith("kt ")
    told = run(kt, "run", tiny_moe_path(), "-p", "Once upon a time", "-n", 8, "--temp", 0, "-q")
    assert told.stdout == ", in a house near the sea,\n"
    assert run(kt, "nothing").returncode == 2


def test_server_script_is_kt_serve(python):
    done = run(python.parent / "ktransformers", "--help")
    assert done.returncode == 0 and done.stdout == run(python.parent / "kt", "serve", "--help").stdout
