"""`kt doctor` with stand-ins of the GPU plug-in (src/backend/gpu/test_fixtures), and what the real one exports."""
import json
import os
import pathlib
import re
import subprocess

import pytest

from support.kt import BUILD, kt_path, run_kt
from support.models import tiny_moe_path

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = ROOT / "build-cuda" / "lib" / "ktransformers" / "libkt_cuda.so"
UNSUPPORTED, BAD_FILE, NOT_FOUND, INTERNAL = 5, 4, 3, 70


def fake(kind: str) -> pathlib.Path:
    return BUILD / "src" / "backend" / "gpu" / f"libfake_gpu_{kind}.so"


def doctor(kind: str) -> subprocess.CompletedProcess:
    return run_kt("doctor", "--threads", "2", "--gpu-plugin", fake(kind), check=False)


def test_gpus_are_shown_checked_and_measured():
    done = doctor("good")
    assert done.returncode == 0, done.stderr
    for i, bus in enumerate(("0000:01:00.0", "0000:02:00.0")):
        assert re.search(rf"^GPU {i} +Stand-in GPU, compute capability 9\.0, .*{bus}, driver for CUDA 13\.0",
                         done.stdout, re.M)
    assert done.stdout.count("64.0 MiB in all, 64.0 MiB free") == 2
    assert done.stdout.count("products: 23 of 29 cases agree with the reference") == 2
    assert "products: 6 of 29 cases not tried: cuBLASLt was not found" in done.stdout
    assert "attention: 10 of 10 cases not tried: no kernel" in done.stdout
    assert "streamed: 4 of 4 cases not tried: no kernel" in done.stdout
    assert re.search(r"^  Rates +\d+ GB/s read, [\d.]+ GB/s from pinned memory, [\d.]+ GB/s to it$", done.stdout, re.M)


def test_wrong_kernels_are_reported():
    done = doctor("wrong_results")
    assert done.returncode == INTERNAL
    assert "products: THEY DIFFER from the reference in 23 of 29 cases, by 1.0e-01" in done.stdout


def test_no_driver_is_one_line():
    done = doctor("no_gpu")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^GPU.*", done.stdout, re.M) == ["GPU         none: no NVIDIA driver on this machine"]


@pytest.mark.parametrize("kind, status, message", [
    ("other_version", UNSUPPORTED, "is the GPU plug-in of another build of kt"),
    ("missing_function", BAD_FILE, "lacks the function route"),
    ("nowhere", NOT_FOUND, "there is no such file"),
])
def test_a_wrong_plugin_that_was_asked_for_is_refused(kind, status, message):
    done = doctor(kind)
    assert done.returncode == status
    assert done.stderr.startswith("kt: error: ") and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind, line", [("no_gpu", "none: no NVIDIA driver"), ("other_version", "none: .*another build")])
def test_the_variable_names_a_plugin(kind, line):
    done = subprocess.run([kt_path(), "doctor", "-t", "2"], capture_output=True, text=True, check=False,
                          env={**os.environ, "KT_GPU_PLUGIN": str(fake(kind))})
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^GPU +{line}", done.stdout, re.M), done.stdout


RUN, PLAN = ["run", "-p", "The", "-n", "1", "-c", "64", "-t", "2"], ["plan", "-c", "64", "-t", "2"]
NONE = "there is no GPU to use: no NVIDIA driver on this machine"


@pytest.mark.parametrize("command", [RUN, PLAN], ids=lambda command: command[0])
def test_gpus_that_are_asked_for_and_not_there(command, monkeypatch):
    """A number or a plug-in is an error, memory a warning, KT_GPU_PLUGIN nothing."""
    monkeypatch.setenv("KT_GPU_PLUGIN", str(fake("no_gpu")))
    for flags in (["--gpus", "1"], ["--gpu-plugin", fake("no_gpu")]):
        done = run_kt(command[0], tiny_moe_path(), *command[1:], *flags, check=False)
        assert done.returncode == UNSUPPORTED and done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"kt: error: {flags[0]}: {NONE}"), done.stderr
    done = run_kt(command[0], tiny_moe_path(), *command[1:], "--gpu-memory", "4GiB")
    assert f"warning: --gpu-memory has no effect, {NONE}\n" in done.stderr
    for flags in ([], ["--gpus", "0", "--gpu-memory", "4GiB"]):
        assert "GPU" not in run_kt(command[0], tiny_moe_path(), *command[1:], *flags).stderr


def test_a_plan_says_why_it_has_no_gpu(monkeypatch):
    monkeypatch.setenv("KT_GPU_PLUGIN", str(fake("no_gpu")))
    shown = run_kt(PLAN[0], tiny_moe_path(), *PLAN[1:]).stdout
    assert "\nno GPU here: no NVIDIA driver on this machine; --gpu plans for one\n" in shown
    for flags in (["--gpus", "0"], ["--ram", "8GiB"]):
        assert "no GPU" not in run_kt(PLAN[0], tiny_moe_path(), *PLAN[1:], *flags).stdout


def test_plans_are_for_the_gpus_of_this_machine(tmp_path):
    flags = ["--gpus", "1", "--gpu-memory", "1GiB", "--gpu-plugin", fake("whole")]
    rules = tmp_path / "rules.yaml"
    done = run_kt(PLAN[0], tiny_moe_path(), *PLAN[1:], *flags, "--json", "--write-rules", rules)
    plan = json.loads(done.stdout)
    assert [(d["name"], d["capacity"]) for d in plan["devices"][1:]] == [("cuda:0", 1 << 30)]
    assert {m["device"] for m in plan["modules"]} == {"cpu", "cuda:0"} and plan["speed"]["decode"] > 0
    assert "cuda:0" in rules.read_text()
    run_kt(RUN[0], tiny_moe_path(), *RUN[1:], *flags, "--rules", rules)  # or an error: no device cuda:0
    for more in (["--gpu", "1GiB@1000GB/s"], ["--ram", "8GiB"]):
        done = run_kt(PLAN[0], tiny_moe_path(), *PLAN[1:], *flags, *more, check=False)
        assert done.returncode == 2 and "not together with --gpu or --ram" in done.stderr


def test_the_plugin_exports_one_symbol_and_needs_glibc_alone():
    if not REAL.exists():
        pytest.skip("the plug-in is not built (./dev gpu-build)")
    symbols = subprocess.run(["nm", "-D", "--defined-only", REAL], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["kt_gpu_api"]
    needed = subprocess.run(["readelf", "-d", REAL], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.*?)\]", needed))
    assert libraries <= {"libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
