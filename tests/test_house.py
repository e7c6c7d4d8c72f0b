"""The house rules: include edges, style, ./dev, and that their checkers catch what they should."""
import os
import pathlib
import shutil
import subprocess
import sys

import check_layers
import check_style
import pytest
import test_summary

ROOT = pathlib.Path(__file__).resolve().parents[1]

HEADER = "// Owns x.\n// Formula: y = x.\n// Thread rule: pure.\n#pragma once\n"


@pytest.fixture
def tree(tmp_path):
    """A tiny source tree with the real rules; call it with {path: text} to add files, get the violations."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "layers.toml", tmp_path / "docs")

    def add(files: dict[str, str]) -> list[str]:
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return check_layers.check(tmp_path)[1]

    add({"src/base/error.h": HEADER, "src/io/gguf.h": HEADER, "src/engine/engine.h": HEADER,
         "src/text/tokenizer.h": HEADER, "src/kernels/cpu/dot/dot.h": HEADER})
    return add


def test_layers_of_the_tree():
    count, problems = check_layers.check(ROOT)
    assert not problems, "\n".join(problems)
    assert count > 50


def test_layers_allow_edges_down(tree):
    assert tree({"src/io/a.cc": '#include <vector>\n#include "base/error.h"\n#include <nlohmann/json.hpp>\n',
                 "src/session/a.cc": '#include "engine/engine.h"\n#include "text/tokenizer.h"\n',
                 "src/io/a_test.cc": "#include <gtest/gtest.h>\n",
                 "src/kernels/cpu/dot/dot_avx2.cc": "#include <immintrin.h>\n"}) == []


@pytest.mark.parametrize("path, text, wanted", [
    ("src/base/bad.cc", '#include "io/gguf.h"', "'base' may not include 'io'"),
    ("src/text/bad.cc", '#include "engine/engine.h"', "'text' may not include 'engine'"),
    ("src/engine/bad.cc", '#include "text/tokenizer.h"', "'engine' may not include 'text'"),
    ("src/operators/bad.cc", '#include "kernels/cpu/dot/dot.h"', "'operators' may not include 'dot'"),
    ("src/io/bad.cc", '  #  include "../engine/engine.h"', "'io' may not include 'engine'"),
    ("src/io/bad.cc", '#include "io/missing.h"', "was not found"),
    ("src/io/bad.cc", "#include <cuda_runtime.h>", "may not use 'cuda'"),
    ("src/engine/bad.cc", "#include <nlohmann/json.hpp>", "may not use 'json'"),
    ("src/io/bad.cc", "#include <absl/strings.h>", "no third-party group"),
    ("src/io/bad.cc", "#include <gtest/gtest.h>", "outside tests"),
    ("src/kernels/cpu/dot/dot.cc", "#include <immintrin.h>", "outside an ISA file"),
    ("src/io/fast_avx2.cc", "#include <immintrin.h>", "outside an ISA file"),
    ("src/kernels/cpu/dot/dot_avx2.cc", "#include <vector>", "avx2 instructions"),
    ("src/io/bad.cc", 'const char* x = std::getenv("HOME");', "getenv outside"),
    ("src/elsewhere/bad.cc", "", "belongs to no layer"),
])
def test_layers_catch(tree, path, text, wanted):
    problems = tree({path: text + "\n"})
    assert len(problems) == 1, problems
    assert wanted in problems[0] and problems[0].startswith(path)


def test_layers_ignore_getenv_in_comments(tree):
    assert tree({"src/io/a.cc": "// getenv is read elsewhere\n"}) == []


def test_layers_refuse_cycles(tree, tmp_path):
    path = tmp_path / "docs" / "layers.toml"
    path.write_text(path.read_text().replace('path = "src/base"\nmay = []', 'path = "src/base"\nmay = ["io"]'))
    with pytest.raises(SystemExit, match="cycle"):
        tree({})


def test_style_of_the_tree():
    done = subprocess.run([sys.executable, ROOT / "tools" / "check_style.py"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def style(tmp_path, path: str, text: str) -> list[str]:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    return check_style.check_file(tmp_path, tmp_path / path)


LONG_BODY = "  int x = 0;\n" * 90


@pytest.mark.parametrize("path, text, wanted", [
    ("src/a.cc", "int x;\n" * 801, "801 lines"),
    ("src/a.cc", "// TO" + "DO: later\n", "work-in-progress marker"),
    ("src/a.cc", "// see /ro" + "ot/notes\n", "path of one machine"),
    ("src/a.h", "#pragma once\nint x;\n", "opens with 0 comment lines"),
    ("src/a.h", HEADER.replace("#pragma once\n", ""), "no #pragma once"),
    ("src/a.cc", "namespace a {\nint f(int x) {\n" + LONG_BODY + "}\n}\n", "function of 92 lines"),
    ("src/a.cc", "A::A(int x) : x_{x}, y_(x) {\n" + LONG_BODY + "}\n", "function of 92 lines"),
    ("src/a.cc", "struct A {\n  void f() const {\n" + LONG_BODY + "  }\n};\n", "function of 92 lines"),
    ("src/a.cc", "TEST(A, B) {\n  auto f = [] {\n" + LONG_BODY + "  };\n}\n", "function of 94 lines"),
    ("tools/a.py", "def f():\n" + "    x = 1\n" * 81, "function of 82 lines"),
])
def test_style_catches(tmp_path, path, text, wanted):
    problems = style(tmp_path, path, text)
    assert len(problems) == 1 and wanted in problems[0], problems


@pytest.mark.parametrize("path, text", [
    ("src/a.h", HEADER),
    ("src/a.cc", "const int kTable[] = {\n" + "  1,\n" * 200 + "};\n"),
    ("src/a.cc", "namespace {\n" + "int f() { return '{'; }  // {\n" * 100 + "}\n"),
    ("src/a.cc", 'const char* kText = R"({ {\n' + "x\n" * 200 + ')";\nint f() { return 1; }\n'),
    ("src/kernels/cpu/a.cc", "void f() {\n" + LONG_BODY + "}\n"),
])
def test_style_accepts(tmp_path, path, text):
    assert style(tmp_path, path, text) == []


def dev(*args, **env) -> subprocess.CompletedProcess:
    return subprocess.run([ROOT / "dev", *args], capture_output=True, text=True, check=False,
                          env={**os.environ, **env})


def test_dev_help_lists_every_command():
    text = dev("help").stdout
    known = (ROOT / "dev").read_text().split('COMMANDS="')[1].split('"')[0].split()
    for command in set(known) - {"help"}:
        assert f"\n  {command} " in text


def test_dev_suggests_a_command():
    done = dev("biuld")
    assert done.returncode == 2
    assert "did you mean 'build'" in done.stderr and len(done.stderr.splitlines()) == 1


def test_setup_names_what_is_missing_to_those_who_cannot_install(tmp_path):
    """A machine without the packages and without root: one line with the exact command."""
    tools = tmp_path / "bin"
    tools.mkdir()
    fakes = {"apt-get": "exit 1", "dpkg-query": "exit 0", "id": "echo 1000", "sudo": "exit 1"}
    for name, body in fakes.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    done = dev("setup", XDG_CACHE_HOME=str(tmp_path / "cache"), PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "run as root: apt-get install" in done.stderr and "g++" in done.stderr


def test_summary_adds_up(tmp_path, capsys, monkeypatch):
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "test_a.xml").write_text(
        '<testsuites><testsuite><testcase name="x" status="run" result="completed"/>'
        '<testcase name="y" status="run"><failure/></testcase>'
        '<testcase name="z" status="run" result="skipped"><skipped/></testcase></testsuite></testsuites>')
    (tmp_path / "cpp-ctest.xml").write_text(
        '<testsuite><testcase name="a" status="fail"><failure/></testcase>'
        '<testcase name="crashed" status="fail"><failure/></testcase>'
        '<testcase name="plain" status="run"/></testsuite>')
    (tmp_path / "python.xml").write_text('<testsuites><testsuite><testcase name="p"/></testsuite></testsuites>')
    (tmp_path / "plugin.xml").write_text("<testsuites/>")
    (tmp_path / "stages.txt").write_text("pass fuzz a\nfail fuzz b\n")
    monkeypatch.setattr(sys, "argv", ["test_summary.py", str(tmp_path)])
    assert test_summary.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 3 failed, 1 skipped"
