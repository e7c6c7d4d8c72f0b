"""docs/injection.md and local_chat, run as they are written."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def work(tmp_path):
    """A folder with what the page names, and the environment to run Python there."""
    for name in ("models", "rules"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(tmp_path), os.path.join(os.environ["KT_BUILD"], "python")])
    return tmp_path, os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def test_the_page_runs(work):
    folder, environment = work
    program = []
    for language, name, text in re.findall(r"```(python|yaml)(?: file=(\S+))?\n(.*?)```",
                                           (ROOT / "docs/injection.md").read_text(), re.S):
        if name:
            (folder / name).write_text(text)
        else:
            assert language == "python"
            program.append(text)
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Once upon a time" in done.stdout and "eval rate" in done.stdout
    assert "KTransformersLinear cuda:0 Q4_0" in done.stdout and "not read" in done.stdout
    assert "Clamped" in done.stderr and "module by module" in done.stderr


def chat(work, text: str, *flags: str):
    folder, environment = work
    return subprocess.run([sys.executable, "-m", "ktransformers.local_chat", "--model_path", "models/tiny-moe",
                           "--gguf_path", "models/tiny-moe/tiny-moe-q4_k_m.gguf", "--max_new_tokens", "20", *flags],
                          cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=300)


def test_local_chat(work):
    folder, _ = work
    (folder / "question.txt").write_text("What color is the sky?")
    done = chat(work, 'Tell me a story about a fox\n"""\nWhat color\nis the sky?\n"""\nquestion.txt\n\n',
                "--emulate_gpus", "--prompt_file", "question.txt", "--cpu_infer", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("eval rate:") == 2 * 4
    assert done.stdout.count("The sky is blue.") >= 2


@pytest.mark.parametrize("flags, message", [
    ([], r"error: .*\n.*device 'cuda' does not exist"),
    (["--mode", "long_context"], "selection of blocks"),
    (["--optimize_config_path", "none.yaml"], "none.yaml: no such rule file"),
])
def test_local_chat_says_what_is_wrong(work, flags, message):
    done = chat(work, "", *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
