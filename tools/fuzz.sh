#!/usr/bin/env bash
# ./dev fuzz: builds every src/**/*_fuzz.cc with clang, libFuzzer and sanitizers, and runs each for a while.
# Seeds lie in tests/fuzz/NAME/, the corpus of earlier long runs in tests/fuzz/NAME.tar.gz (--keep renews it); a
# run's corpus and findings in build-fuzz/. Exit 1 when anything was found.
set -uo pipefail
seconds=60 keep=0 results=/dev/null names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --short) seconds=10 ;;
    --seconds)
      seconds="${2:-}"
      [[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "dev: error: --seconds wants a positive number" >&2; exit 2; }
      shift
      ;;
    --keep) keep=1 ;;
    --results) results="$2"; shift ;;
    -*) echo "dev: error: unknown option '$1' of ./dev fuzz" >&2; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done

tools/setup/setup.sh fuzz || exit 1
clang=""
for version in 19 18 17 16; do
  if command -v "clang++-$version" >/dev/null; then clang="-$version"; break; fi
done
if [ ! -f build-fuzz/build.ninja ]; then
  cmake --preset fuzz -DCMAKE_C_COMPILER="clang$clang" -DCMAKE_CXX_COMPILER="clang++$clang" >/dev/null || exit 1
fi
if ! cmake --build build-fuzz --parallel "$(nproc)" --target kt_fuzz; then
  echo "fail build of the fuzz targets" >>"$results"
  exit 1
fi

mapfile -t all < <(find build-fuzz/bin -maxdepth 1 -name 'fuzz_*' -type f | sed 's|.*/fuzz_||' | sort)
[ "${#names[@]}" -gt 0 ] || names=("${all[@]}")
status=0
mkdir -p build-fuzz/findings
for name in "${names[@]}"; do
  program="build-fuzz/bin/fuzz_$name" corpus="build-fuzz/corpus/$name" seeds="tests/fuzz/$name"
  if [ ! -x "$program" ]; then
    echo "dev: error: no fuzz target '$name' (there are: ${all[*]})" >&2
    exit 2
  fi
  mkdir -p "$corpus"
  if [ -f "$seeds.tar.gz" ] && [ -z "$(ls -A "$corpus")" ]; then tar -xzf "$seeds.tar.gz" -C "$corpus"; fi
  folders=("$corpus")
  [ -d "$seeds" ] && folders+=("$seeds")
  if UBSAN_OPTIONS=print_stacktrace=1 "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
    -artifact_prefix="build-fuzz/findings/$name-" -print_final_stats=1 "${folders[@]}" \
    >"build-fuzz/$name.log" 2>&1; then
    runs="$(sed -nE 's/^stat::number_of_executed_units: *//p' "build-fuzz/$name.log")"
    echo "fuzz $name: $seconds s, ${runs:-?} inputs, no finding"
    echo "pass fuzz $name" >>"$results"
  else
    echo "fuzz $name: FAILED, log build-fuzz/$name.log"
    tail -40 "build-fuzz/$name.log"
    echo "fail fuzz $name" >>"$results"
    status=1
  fi
  if [ "$keep" = 1 ]; then
    smallest="$(mktemp -d)"
    "$program" -set_cover_merge=1 "$smallest" "$corpus" >/dev/null 2>&1 &&
      tar --sort=name --mtime=@0 --owner=0 --group=0 -czf "$seeds.tar.gz" -C "$smallest" .
    rm -r "$smallest"
  fi
done
exit "$status"
