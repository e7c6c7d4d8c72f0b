"""Every command that the documentation shows works.

A block opened with ```sh is run as it stands, with build/bin on the path, in a scratch folder that has the
tree's models/, rules/, tests/ and include/ in it, and the files that the page shows: a block opened with ```cpp NAME or
```yaml NAME is the file NAME. A block opened with ```sh parse is not run (it needs a network, a model that is
not in the tree, or is a ./dev command that runs these tests), but each line must be a command that exists, with
flags that it knows.

The blocks opened with ```python are run as one program, in the same kind of folder. Notebooks run from the first cell to
the last.
"""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import notebook
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN_FILE = re.compile(r"^```(?:cpp|yaml) ([\w.]+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHER_PROGRAMS = {"git", "cd", "cmake", "ctest", "python3", "pip", "pytest", "ninja"}


def documents() -> list[pathlib.Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").rglob("*.md")]
    return sorted(found)


def blocks() -> list:
    found = []
    for path in documents():
        for match in BLOCK.finditer(path.read_text()):
            line = path.read_text().count("\n", 0, match.start()) + 1
            name = f"{path.relative_to(ROOT)}:{line}"
            found.append(pytest.param(path, match.group(1).split(), match.group(2), id=name))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each line, continuation lines joined and comments dropped."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def check_kt(words: list[str], build: pathlib.Path) -> None:
    program = str(build / "bin" / "kt")
    command = [program, words[1], "--help"] if len(words) > 1 and not words[1].startswith("-") else [
        program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr.strip()}"
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", done.stdout)) | {"--help", "--version"}
    for word in words[2:]:
        if re.match(r"--?[a-zA-Z]", word):
            assert word.split("=")[0] in known, f"'{words[0]} {words[1]}' has no flag {word}"


def check_dev(words: list[str]) -> None:
    script = (ROOT / "dev").read_text()
    assert words[1] in script.split('COMMANDS="')[1].split('"')[0].split(), f"./dev has no '{words[1]}'"
    text = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    for word in words[2:]:
        assert not word.startswith("--") or word in text, f"./dev {words[1]} has no flag {word}"


def show_files(page: pathlib.Path, folder: pathlib.Path) -> None:
    """Makes a folder that has what the page's blocks need."""
    for name, content in SHOWN_FILE.findall(page.read_text()):
        (folder / name).write_text(content)
    for name in ("models", "rules", "tests", "include"):
        (folder / name).symlink_to(ROOT / name)


@pytest.mark.parametrize("page, marks, text", blocks())
def test_block(page, marks, text, build, tmp_path):
    assert set(marks) <= {"parse"}, f"unknown mark {marks}"
    assert commands(text), "empty block"
    if marks:
        for words in commands(text):
            name = pathlib.PurePath(words[0]).name
            if name == "kt":
                check_kt(words, build)
            elif words[0] == "./dev":
                check_dev(words)
            else:
                assert name in OTHER_PROGRAMS, f"'{words[0]}' is none of this project's commands"
                for word in words[1:]:
                    assert not word.endswith(".py") or (ROOT / word).exists(), f"{word} does not exist"
        return
    show_files(page, tmp_path)
    env = {**os.environ, "PATH": f"{build / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=env, text=True,
                          capture_output=True, timeout=300, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def pages_with_python() -> list[pathlib.Path]:
    """But those that show modules of a program: they have tests of their own (tests/python)."""
    texts = {page: page.read_text() for page in documents()}
    return [page for page, text in texts.items() if PYTHON_BLOCK.search(text) and "```python file=" not in text]


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks(page, build, tmp_path):
    show_files(page, tmp_path)
    program = tmp_path / "blocks.py"
    program.write_text("\n".join(PYTHON_BLOCK.findall(page.read_text())))
    done = subprocess.run([sys.executable, program], cwd=tmp_path, text=True, capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(build / "python")}, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def cell_outputs(notebook: dict, kind: str) -> list[str]:
    return ["".join(output["data"][kind]) for cell in notebook["cells"] for output in cell.get("outputs", [])
            if kind in output.get("data", {})]


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_runs(path):
    ran = notebook.run(path)
    charts = cell_outputs(ran, "image/svg+xml")
    assert charts and all(chart.startswith("<svg") for chart in charts)
    shown = json.loads(path.read_text())
    assert cell_outputs(shown, "image/svg+xml"), "has no outputs; tools/notebook.py writes them"
    assert "/tmp/" not in path.read_text() and str(ROOT) not in path.read_text()


def test_the_readme_shows_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "./dev demo" in text and "./dev test" in text


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(path):
    """Files of the source tree named in backticks are there."""
    for name in re.findall(r"`((?:src|apps|tests|tools|cmake|docs|bench|models)/[\w./-]+\.\w+)`",
                           path.read_text()):
        assert (ROOT / name).exists(), f"{path.name} names {name}, which does not exist"


def test_the_table_of_faults_names_tests_that_exist():
    table = (ROOT / "docs/serving.md").read_text().split("## Faults")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")][1:]
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*_test.cc"))
    assert len(rows) > 15
    for what, _, tests in rows:
        names = re.findall(r"`([^`]+)`", tests)
        assert names, what
        for name in names:
            if "::" in name:
                file, function = name.split("::")
                assert f"\ndef {function}(" in (ROOT / "tests/serve" / file).read_text(), name
            else:
                suite, test = name.split(".")
                assert re.search(rf"\bTEST(_F|_P)?\({suite}, {test}\)", sources), name
