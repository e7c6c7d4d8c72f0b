"""Builds llama-bench for llama_cpp.py, and puts the peers of moe_layer.py into one folder, PREFIX:

    PREFIX/ggml/         libggml-base.so, libggml-cpu.so, libgomp.so.1: llama.cpp's CPU backend, built from the source
                         package llama-cpp-python
    PREFIX/kt_kernel/    the CPU extensions of the wheel kt-kernel, and PREFIX/kt_kernel.libs/ beside it
    PREFIX/venv/         NumPy, when the running Python has none

PREFIX can be carried to a machine without a network: 3 MB for ggml, 20 MB for kt-kernel on AVX-512 and AMX. The wheel
of kt-kernel has 101 MB with GPU code and asks for torch; neither is used here, so only its CPU part is kept.
"""
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

from peer_driver import run, say

PEER = "0.3.36"  # of llama-cpp-python
KT_KERNEL = "0.7.2"
AVX2 = ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"]
AVX512 = ["-DGGML_AVX512=ON", "-DGGML_AVX512_VBMI=ON", "-DGGML_AVX512_VNNI=ON", "-DGGML_AVX512_BF16=ON"]
CPU_FLAGS = {"native": ["-DGGML_NATIVE=ON"], "avx2": AVX2, "avx512": AVX2 + AVX512}

# Parts of kt-kernel's wheel for a machine that ggml is built for.
VARIANTS = {"avx2": ["avx2"], "avx512": ["amx", "avx512_bf16"],
            "native": ["amx", "avx512_bf16", "avx512_vbmi", "avx512_vnni", "avx512_base", "avx2"]}


def fetch(cache: pathlib.Path, wheels: pathlib.Path | None, pattern: str, *what: str) -> pathlib.Path:
    """The file of this pattern in the cache, copied from `wheels` or downloaded there first."""
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(pattern)):
        if wheels is None:
            say(f"fetching {what[-1]}")
            run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", cache, *what)
        for file in wheels.glob(pattern) if wheels else []:
            shutil.copy(file, cache)
    found = list(cache.glob(pattern))
    return found[0] if found else sys.exit(f"{wheels or cache} has no {pattern}")


def build_llama_cpp(build: pathlib.Path, cache: pathlib.Path, wheels: pathlib.Path | None, cpu: str, target: str,
                    *flags: str) -> None:
    """Builds a target of llama.cpp's CMake project, from its source in the cache, in the folder `build`."""
    source = cache / f"llama_cpp_python-{PEER}"
    if not source.exists():
        archive = fetch(cache, wheels, f"llama_cpp_python-{PEER}.tar.gz", "--no-binary", "llama-cpp-python",
                        f"llama-cpp-python=={PEER}")
        run("tar", "-xzf", archive, "-C", cache)
    say(f"building {target} for {cpu} (some minutes, once)")
    run("cmake", "-S", source / "vendor" / "llama.cpp", "-B", build, "-DCMAKE_BUILD_TYPE=Release",
        "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_CURL=OFF",
        "-DLLAMA_OPENSSL=OFF", *flags, *CPU_FLAGS[cpu])
    run("cmake", "--build", build, "--target", target, "--parallel", str(os.cpu_count() or 2))


def build_llama_program(cache: pathlib.Path, cpu: str, name: str) -> pathlib.Path:
    """llama-bench or llama-server; an earlier build is used again."""
    build = cache / f"llama-cpp-{PEER}-{cpu}"
    program = build / "bin" / name
    if not program.exists():
        server = "ON" if name == "llama-server" else "OFF"
        build_llama_cpp(build, cache, None, cpu, name, "-DBUILD_SHARED_LIBS=OFF", f"-DLLAMA_BUILD_SERVER={server}",
                        f"-DLLAMA_BUILD_MTMD={server}")
    return program


def build_ggml(prefix: pathlib.Path, cache: pathlib.Path, wheels: pathlib.Path | None, cpu: str) -> None:
    build = cache / f"ggml-{PEER}-{cpu}"
    build_llama_cpp(build, cache, wheels, cpu, "ggml-cpu", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TOOLS=OFF",
                    "-DLLAMA_BUILD_EXAMPLES=OFF")
    folder = prefix / "ggml"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libggml-base.so", "libggml-cpu.so"):
        real = (build / "bin" / name).resolve()
        shutil.copy(real, folder / name)
    openmp = subprocess.run(["cc", "-print-file-name=libgomp.so.1"], capture_output=True, text=True).stdout.strip()
    if os.path.isabs(openmp):
        shutil.copy(os.path.realpath(openmp), folder / "libgomp.so.1")
    (folder / "built-for").write_text(cpu + "\n")


def unpack_kt_kernel(prefix: pathlib.Path, cache: pathlib.Path, wheels: pathlib.Path | None, cpu: str,
                     python: str) -> None:
    abi = "cp" + python.replace(".", "")
    platforms = [word for minor in range(17, 40) for word in ("--platform", f"manylinux_2_{minor}_x86_64")]
    wheel = fetch(cache, wheels, f"kt_kernel-{KT_KERNEL}-{abi}-*.whl", "--only-binary", ":all:", "--python-version",
                  python, "--abi", abi, *platforms, f"kt-kernel=={KT_KERNEL}")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            ours = name.startswith("kt_kernel/_kt_kernel_ext_") and any(f"_ext_{v}." in name for v in VARIANTS[cpu])
            if ours or name.startswith("kt_kernel.libs/"):
                archive.extract(name, prefix)


def python_with_numpy(prefix: pathlib.Path, wheels: pathlib.Path | None) -> str:
    """The running Python, or that of PREFIX/venv."""
    if importlib.util.find_spec("numpy"):
        return sys.executable
    program = prefix / "venv" / "bin" / "python"
    if not program.exists():
        venv.create(prefix / "venv", with_pip=True)
        source = ["--no-index", "--find-links", wheels] if wheels else []
        run(program, "-m", "pip", "install", "--quiet", *source, "numpy")
    return str(program)


def install(prefix: pathlib.Path, cache: pathlib.Path, wheels: pathlib.Path | None, cpu: str, python: str) -> None:
    """What is missing in PREFIX. `cpu`: a key of CPU_FLAGS; `python`: "3.12"."""
    mark = prefix / "ggml" / "built-for"
    if not mark.exists() or mark.read_text().strip() != cpu:
        build_ggml(prefix, cache, wheels, cpu)
    abi = "cpython-" + python.replace(".", "")
    if not list((prefix / "kt_kernel").glob(f"_kt_kernel_ext_*.{abi}-*.so")):
        unpack_kt_kernel(prefix, cache, wheels, cpu, python)
