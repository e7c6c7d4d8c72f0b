#!/usr/bin/env bash
# ./dev gpu-test [ARGS]: runs the test of the CUDA kernels (ARGS go to it), that of the plug-in, the golden models, many
# requests to a server, the ops of Python, the load of a large file where there is room for it, and the bench. The
# programs need only the GPU's driver, so that a build can be carried to a machine without a compiler:
#   KT_GPU_BUILD=FOLDER KT_BIN=FILE KT_PYTHON_PACKAGE=FOLDER tools/gpu_test.sh
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bin="${KT_GPU_BUILD:-$here/build-cuda}/bin"
results="${KT_GPU_RESULTS:-$bin}"

if ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  echo "gpu-test: this machine has no NVIDIA GPU (no /dev/nvidia*); the programs are in $bin" >&2
  exit 1
fi
# cuBLASLt of the tool chain, unless the system has one.
[ -n "${KT_CUDA_ROOT:-}" ] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$KT_CUDA_ROOT/lib"

status=0
# Several at a time: the host's loops are what takes long.
shards=4 running=()
for i in $(seq 0 $((shards - 1))); do
  GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i timeout 300 "$bin/test_cuda_kernels" "$@" &
  running+=($!)
done
for test in "${running[@]}"; do wait "$test" || status=1; done
timeout 300 "$bin/test_cuda_plugin" || status=1
export KT_GPU_PLUGIN="$bin/../lib/ktransformers/libkt_cuda.so"
kt="${KT_BIN:-$here/build/bin/kt}"
timeout 900 python3 "$here/tools/gpu_models.py" "$kt" || status=1
timeout 900 python3 "$here/tools/gpu_soak.py" "$kt" || status=1
not_run=()
# The ops of Python, where a PyTorch sees the GPU. A package that cannot be imported is a failure.
python="${KT_PYTHON:-python3}" package="${KT_PYTHON_PACKAGE:-$here/build/python}"
if ! "$python" -c 'import torch; torch.ones(1, device="cuda")' 2>/dev/null; then
  not_run+=("ops on CUDA tensors: $python has no PyTorch that sees a GPU")
elif [ ! -d "$package/ktransformers" ]; then
  not_run+=("ops on CUDA tensors: there is no package in $package")
else
  timeout 300 "$python" -W ignore "$here/tools/gpu_python.py" "$package" || status=1
fi
room=$(df --output=avail -B1G "${TMPDIR:-/tmp}" | tail -1)
memory=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
if [ "$room" -ge 40 ] && [ "$memory" -ge 48 ]; then
  timeout 900 python3 "$here/tools/gpu_load.py" "$kt" || status=1
else
  not_run+=("the load of a large file: $room GiB in ${TMPDIR:-/tmp}, $memory GiB of memory; 40 and 48 are wanted")
fi
timeout 300 "$bin/bench_cuda_kernels" --json "$results/gpu-bench.json" || status=1
for what in "${not_run[@]}"; do echo "gpu-test: not run: $what"; done
exit "$status"
