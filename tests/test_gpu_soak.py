"""The soak of a server on GPUs (tools/gpu_soak.py), a short one with the stand-in of the GPU plug-in."""
import pathlib
import subprocess
import sys

from support.kt import BUILD, kt_path

TOOL = pathlib.Path(__file__).resolve().parents[1] / "tools" / "gpu_soak.py"
PLUGIN = BUILD / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"


def test_soak():
    done = subprocess.run([sys.executable, TOOL, kt_path(), "--small", "--requests", "24", "--", "-t", "2", "--gpu-plugin",
                           PLUGIN], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("soak: all is well\n")
    assert done.stdout.count("Stand-in GPU") >= 2
