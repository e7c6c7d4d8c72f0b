"""Operators of a user's shared object through the command line: the example of docs/adding/operator.md decides
what its rule names and nothing else, and what goes wrong is said in one line."""
import json
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "adding" / "operator.md"
MODEL = ROOT / "models" / "tiny-moe" / "tiny-moe-q4_k_m.gguf"


def shown(name: str) -> str:
    """The file that the page shows under this name."""
    return re.search(rf"^```\w+ {re.escape(name)}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL).group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("plugin")
    for name in ("ternary.cc", "ternary.yaml"):
        (path / name).write_text(shown(name))
    subprocess.run(["g++", "-std=c++20", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-I", ROOT / "include",
                    "ternary.cc", "-o", "libternary.so"], cwd=path, check=True)
    return path


def run(build, folder, rules="ternary.yaml", plugins=("./libternary.so",), extra=()) -> subprocess.CompletedProcess:
    command = [build / "bin" / "kt", "run", MODEL, "-p", "Once upon a time", "-n", "40", "--temp", "0", *extra]
    command += ["--rules", rules] if rules else []
    for plugin in plugins:
        command += ["--plugin", plugin]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def write(folder: pathlib.Path, name: str, old: str, new: str) -> str:
    text = shown("ternary.yaml")
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return name


def test_the_rule_decides_what_runs(build, folder):
    done = run(build, folder, extra=["--trace", "trace.json"])
    assert done.returncode == 0, done.stderr
    plain = run(build, folder, rules=None, plugins=())
    assert done.stdout != plain.stdout, "rounding two projections to three values changes what is said"
    zones = json.loads((folder / "trace.json").read_text())
    events = zones["traceEvents"] if isinstance(zones, dict) else zones
    texts = {json.dumps(e) for e in events if e.get("ph") == "X"}
    ran = {m.group() for t in texts if "TernaryLinear" in t for m in re.finditer(r"model\.layers[\w.]+", t)}
    assert ran == {f"model.layers.{i}.self_attn.o_proj" for i in (0, 1)}


def test_three_values_on_no_layer_change_nothing(build, folder):
    """The library alone, with a rule that names nothing of it."""
    (folder / "none.yaml").write_text(
        "- match:\n    name: '^lm_head$'\n  replace:\n    class: ktransformers.operators.linear.KLinearCPUInfer\n"
        "    kwargs:\n      generate_device: cpu\n")
    done, plain = run(build, folder, rules="none.yaml"), run(build, folder, rules=None, plugins=())
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout


@pytest.mark.parametrize("old, new, message", [
    ("my_operators.TernaryLinear", "my_operators.TernaryLinea", "did you mean my_operators.TernaryLinear?"),
    ("sparsity: 0.4", "sparsity: 4.0", "sparsity is not in (0, 1)"),
    ("sparsity: 0.4", "sparsity: much", "sparsity of operator my_operators.TernaryLinear is not a number"),
    (r"self_attn\\.o_proj", r"input_layernorm", "TernaryLinear replaces modules of kind Linear"),
])
def test_a_wrong_rule_is_refused(build, folder, old, new, message):
    done = run(build, folder, rules=write(folder, "wrong.yaml", old, new))
    assert done.returncode not in (0, 70) and message in done.stderr, done.stderr
    assert done.stdout == ""


def test_a_wrong_library_is_refused(build, folder):
    (folder / "text.so").write_text("no library\n")
    for plugin, code, message in (("missing.so", 3, "no such file"), ("text.so", 4, "cannot be opened as a plug-in")):
        done = run(build, folder, plugins=(plugin,))
        assert done.returncode == code and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    done = run(build, folder, plugins=("./libternary.so", "./libternary.so"))
    assert done.returncode == 2 and "there is already an operator class 'TernaryLinear'" in done.stderr
    done = run(build, folder, rules=None)
    assert done.returncode == 2 and "--rules" in done.stderr
