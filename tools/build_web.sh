#!/usr/bin/env bash
# build_web.sh OUT: builds the chat page (apps/web) in the folder OUT, outside the source tree, and writes
# OUT/web_assets.cc from it. npm packages are installed again only when the lock file changed.
# On failure: one line that says what and where the log is, exit 1. Needs npm on the path, or KT_NPM.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly SOURCE="$ROOT/apps/web"
OUT="$(mkdir -p "$1" && cd "$1" && pwd)"
readonly OUT
readonly PAGE="$OUT/page"
readonly LOG="$OUT/web.log"
NPM="${KT_NPM:-npm}"
[ -x "$NPM" ] || NPM=npm  # the one that CMake found may be gone
readonly NPM

# npm runs the node beside it.
if [ "$(dirname "$NPM")" != . ]; then
  PATH="$(dirname "$NPM"):$PATH"
fi

logged() {
  local what="$1" why
  shift
  if ! (cd "$PAGE" && "$@") >>"$LOG" 2>&1; then
    why="$(grep -aE '^(npm error|check_size:|error|Error|\[.*[Ee]rror)' "$LOG" | head -2 | paste -sd' ' || true)"
    echo "web: could not $what: ${why:-see the log} (log: $LOG). To build without the page: cmake -DKT_WEB=OFF" >&2
    exit 1
  fi
}

mkdir -p "$PAGE"
: >"$LOG"
rm -rf "$PAGE/src" "$PAGE/public" "$PAGE/tools" "$PAGE/dist"
cp -R "$SOURCE/src" "$SOURCE/public" "$SOURCE/tools" "$PAGE/"
cp "$SOURCE/index.html" "$SOURCE/vite.config.ts" "$SOURCE/tsconfig.json" "$SOURCE/package.json" \
  "$SOURCE/package-lock.json" "$PAGE/"

stamp="$(cat "$PAGE/package.json" "$PAGE/package-lock.json" | sha256sum)"
if [ "$(cat "$PAGE/node_modules/.kt-complete" 2>/dev/null)" != "$stamp" ]; then
  logged "install the npm packages of the page" "$NPM" ci --omit=dev --ignore-scripts --prefer-offline --no-audit \
    --no-fund
  echo "$stamp" >"$PAGE/node_modules/.kt-complete"
fi
logged "build the page" "$NPM" run --silent build
logged "embed the page" node tools/embed.mjs dist "$OUT/web_assets.cc"
