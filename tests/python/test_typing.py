"""The types of the package hold, and those who use it see them."""
import os
import pathlib
import subprocess
import sys

USE = """
import ktransformers

async def use(engine: ktransformers.Engine) -> None:
    async for piece in engine.astream("x", max_tokens=3, stop=["a"]):
        reveal_type(piece)

engine = ktransformers.Engine("model.gguf", context=512)
reveal_type(engine.generate("x", temperature=0.5))
reveal_type(engine.generate(["x", "y"]))
reveal_type(engine.placement["lm_head"].bytes)
reveal_type(ktransformers.plan("model.gguf").devices[0].free)
engine.generate("x", temprature=0.5)
engine.generate("x", max_tokens="5")
"""
REVEALED = ["str", "ktransformers.engine.Result", "list[ktransformers.engine.Result]", "int", "int"]


def mypy(build: pathlib.Path, tmp_path: pathlib.Path, *arguments) -> list[str]:
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", tmp_path / "cache",
                           *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "MYPYPATH": str(build / "python")})
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_types_of_the_package(build, tmp_path):
    package = build / "python/ktransformers"
    files = [package / name for name in ("engine.py", "planning.py", "errors.py", "scripts.py")]
    # The stub of the extension is generated, and less strict.
    found = [line for line in mypy(build, tmp_path, "--follow-imports=silent", *files) if "_native.pyi" not in line]
    assert not found, "\n".join(found)


def test_types_for_users(build, tmp_path):
    (tmp_path / "use.py").write_text(USE)
    found = mypy(build, tmp_path, "--follow-imports=silent", "use.py")
    notes = [line.split('Revealed type is "')[1].rstrip('"') for line in found if "Revealed type" in line]
    assert [note.replace("builtins.", "") for note in notes] == REVEALED
    wrong = {line.split(":")[1] for line in found if line.startswith("use.py") and " error: " in line}
    assert wrong == {"13", "14"}, "\n".join(found)
