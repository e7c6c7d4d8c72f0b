"""Objects compiled for an instruction set share no code with the rest of the program.

A weak (inline or template) function in such an object could be the copy that the linker keeps for everyone,
and then crash on a CPU without that instruction set.
"""
import pathlib
import re
import subprocess

from support.kt import BUILD


def isa_objects() -> list[pathlib.Path]:
    return [p for p in BUILD.rglob("*.o") if re.search(r"_(avx2|avx512|avx512bf16|amx)\.cc\.o$", p.name)]


def test_there_are_isa_objects():
    assert len(isa_objects()) >= 4


def test_they_define_no_shared_code():
    for path in isa_objects():
        lines = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True)
        for line in lines.stdout.splitlines():
            kind, name = line.split(maxsplit=2)[1:]
            weak = kind in "WVuwv" and not name.startswith("DW.ref.")
            assert not weak, f"{path.name} defines the shared function {name}"
