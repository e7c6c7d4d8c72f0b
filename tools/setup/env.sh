# Sourced by ./dev: where set-up keeps things (outside the tree), and the environment of every command.
# Expects KT_ROOT. Sets KT_CACHE, KT_VENV, KT_PYTHON, KT_TEST_CACHE, KT_CUDA_ROOT, PATH, CCACHE_*.
KT_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/ktransformers"
KT_VENV="$KT_CACHE/venv-$(sha256sum < "$KT_ROOT/tools/setup/requirements.txt" | cut -c1-12)"
KT_PYTHON="$KT_VENV/bin/python"
KT_TEST_CACHE="$KT_CACHE/test-data"
# The CUDA tool chain of set-up group `cuda`; one of the system's is used by setting this before.
KT_CUDA_HOME="$KT_CACHE/cuda-$(sha256sum < "$KT_ROOT/tools/setup/requirements-cuda.txt" | cut -c1-12)"
KT_CUDA_ROOT="${KT_CUDA_ROOT:-$KT_CUDA_HOME/nvidia/cu13}"
# A clone in another folder reuses the compiler cache.
CCACHE_BASEDIR="$KT_ROOT"
CCACHE_NOHASHDIR=true
PATH="$KT_CACHE/rust/bin:$KT_VENV/bin:$PATH"
export KT_CACHE KT_PYTHON KT_TEST_CACHE KT_CUDA_ROOT CCACHE_BASEDIR CCACHE_NOHASHDIR PATH
