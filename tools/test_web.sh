#!/usr/bin/env bash
# test_web.sh unit|page|images: the tests of the chat page, in the folder build/web-test, with npm packages of
# their own (the source tree stays without any).
#   unit    types and unit tests; needs no server
#   page    browser tests against the server at KT_WEB_URL (default http://127.0.0.1:10002)
#   images  the screenshots of docs/images, from the page that this server has
# page and images need a Chromium: ./dev setup web.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly WORK="${KT_BUILD:-$ROOT/build}/web-test"

what="${1:-unit}"
case "$what" in
  unit | page | images) ;;
  *)
    echo "test_web.sh: error: unknown kind '$what' (known: unit, page, images)" >&2
    exit 2
    ;;
esac

mkdir -p "$WORK"
rm -rf "$WORK/src" "$WORK/tests" "$WORK/public" "$WORK/tools"
cp -R "$ROOT/apps/web/"{src,tests,public,tools} "$WORK/"
find "$ROOT/apps/web" -maxdepth 1 -type f -exec cp {} "$WORK/" \;
cd "$WORK"

stamp="$(cat package.json package-lock.json | sha256sum)"
if [ "$(cat node_modules/.kt-complete 2>/dev/null)" != "$stamp" ]; then
  npm ci --ignore-scripts --prefer-offline --no-audit --no-fund --loglevel=error
  echo "$stamp" >node_modules/.kt-complete
fi

case "$what" in
  unit) npm run --silent check && npm run --silent test ;;
  page) npm run --silent test:page -- "${@:2}" ;;
  images) KT_IMAGES="$ROOT/docs/images" npm run --silent images ;;
esac
