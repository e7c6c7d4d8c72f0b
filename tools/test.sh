#!/usr/bin/env bash
# ./dev test: build (the CUDA kernels too, which need no GPU to be compiled), C++ tests, Python tests (layer and style
# checks among them), sanitizers, short fuzzing.
# Every stage runs even when one before it failed; the last line printed is "N passed, N failed".
set -uo pipefail
quick=0
for arg in "$@"; do
  case "$arg" in
    --quick) quick=1 ;;
    *)
      echo "dev: error: unknown option '$arg' of ./dev test (known: --quick)" >&2
      exit 2
      ;;
  esac
done

groups=(torch web clients)
[ "$quick" = 1 ] || groups+=(fuzz)
tools/setup/setup.sh "${groups[@]}" || exit 1
./dev build || exit 1

results="$KT_ROOT/build/test-results"
rm -rf "$results"
mkdir -p "$results"
export KT_BUILD="$KT_ROOT/build"

# ctest_stage NAME BUILD_DIR
ctest_stage() {
  echo "== $1 =="
  mkdir -p "$results/$1"
  GTEST_OUTPUT="xml:$results/$1/" ctest --test-dir "$2" --output-on-failure --timeout 900 \
    -j"$(nproc)" --output-junit "$results/$1-ctest.xml"
}

ctest_stage cpp build
# Beside each other: most Python tests keep one core busy. Those of the plug-in come when it is there.
pytest_stage() {
  local name="$1"
  shift
  echo "== $name =="
  "$KT_PYTHON" -m pytest "$@" -q -ra --junitxml="$results/$name.xml" -p no:cacheprovider
}
./dev gpu-build >"$results/cuda.log" 2>&1 &
cuda=$!
pytest_stage python tests --ignore tests/test_gpu_plugin.py
echo "== cuda =="
wait "$cuda" || echo "fail build of the CUDA kernels" >>"$results/stages.txt"
tail -n 40 "$results/cuda.log"
pytest_stage plugin tests/test_gpu_plugin.py

if [ "$quick" = 0 ]; then
  if ./dev build --preset dev; then
    export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
    ctest_stage sanitize build-dev
  else
    echo "fail build of the sanitizer preset" >>"$results/stages.txt"
  fi
  echo "== fuzz =="
  tools/fuzz.sh --short --results "$results/stages.txt"
fi
"$KT_PYTHON" tools/test_summary.py "$results"
