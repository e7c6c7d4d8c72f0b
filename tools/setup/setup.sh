#!/usr/bin/env bash
# Installs what building and testing needs, and nothing that is there already:
#   1. Debian/Ubuntu packages of packages.txt (and of the groups named as arguments)
#   2. Rust >= 1.87: an existing cargo, else the distribution's package
#   3. a Python environment with the pinned packages of requirements.txt (Node is one), in the cache folder
#   4. the npm packages that tests compare with, of tests/interop/package-lock.json, in the cache folder
# Group clients: what other programs ask a server with, npm packages of tests/serve/js/package-lock.json and Python
# packages of requirements-clients.txt.
# Idempotent. Without a network it succeeds when everything is there. On failure: one line, exit 1.
set -euo pipefail

KT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
. "$KT_ROOT/tools/setup/env.sh"
readonly RUST_MIN_MINOR=87
readonly CLANG_VERSIONS="19 18 17 16"
readonly LOG="$KT_CACHE/setup.log"

die() { echo "dev: $*" >&2; exit 1; }
say() { echo "setup: $*" >&2; }

has_apt() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

# Runs a command with its output in the log; on failure shows the last telling line of it.
logged() {
  local what="$1"
  shift
  if ! "$@" >>"$LOG" 2>&1; then
    local why
    why="$(grep -aE '^(E:|ERROR|error)' "$LOG" | tail -1 || true)"
    die "could not $what: ${why:-see the end of the log} (log: $LOG)"
  fi
}

missing_packages() {
  dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    awk -v want="$*" '$2 == "installed" { have[$1] = 1 }
      END { n = split(want, w, " "); for (i = 1; i <= n; ++i) if (!(w[i] in have)) print w[i] }'
}

apt_updated=0
apt_update() {
  [ "$apt_updated" = 1 ] && return
  logged "read the package lists" "${as_root[@]}" apt-get -q update
  apt_updated=1
}

# Ends with the exact command when this user cannot install.
need_root() {
  as_root=()
  [ "$(id -u)" = 0 ] && return
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
    return
  fi
  die "missing packages, run as root: apt-get install -y --no-install-recommends $*"
}

apt_install() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" = 0 ] && return
  need_root "${missing[@]}"
  say "installing ${missing[*]}"
  apt_update
  logged "install ${missing[*]}" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends "${missing[@]}"
}

# "a|b" as the one of them that is installed, else that the distribution has, else the first.
one_of() {
  local name names=(${1//|/ })
  for name in "${names[@]}"; do
    [ -z "$(missing_packages "$name")" ] && echo "$name" && return
  done
  [ -n "$(apt-cache pkgnames "${names[0]}")" ] || [ "$(id -u)" != 0 ] || apt-get -q update >>"$LOG" 2>&1
  for name in "${names[@]}"; do
    [ -n "$(apt-cache pkgnames "$name" | grep -xF "$name")" ] && echo "$name" && return
  done
  echo "${names[0]}"
}

install_packages() {
  local names name i
  mapfile -t names < <(grep -vE '^(#|\[|$)' "$KT_ROOT/tools/setup/packages.txt")
  if has_apt; then
    for i in "${!names[@]}"; do
      [[ "${names[i]}" == *"|"* ]] || continue
      name="$(one_of "${names[i]}")"
      names[i]="$name"
    done
    apt_install "${names[@]}"
    return
  fi
  local tool
  for tool in g++ cmake ninja pkg-config python3; do
    command -v "$tool" >/dev/null || die "$tool is missing; install what Debian calls: ${names[*]}"
  done
}

# The packages of one group. Without apt they are the user's own to install.
install_group() {
  local names
  mapfile -t names < <(sed -n "s/^\[$1\] *//p" "$KT_ROOT/tools/setup/packages.txt")
  has_apt || die "set-up group '$1': install what Debian calls ${names[*]}"
  apt_install "${names[@]}"
}

# The page's browser tests need a Chromium; any will do.
install_web() {
  command -v chromium >/dev/null || command -v google-chrome >/dev/null || install_group web
}

# True when this cargo runs and is new enough.
cargo_ok() {
  local version
  version="$("$1" --version 2>/dev/null)" || return 1
  [[ "$version" =~ ^cargo\ ([0-9]+)\.([0-9]+) ]] || return 1
  ((BASH_REMATCH[1] > 1 || BASH_REMATCH[2] >= RUST_MIN_MINOR))
}

# The newest versioned package rustc-1.NN (Ubuntu) that is new enough, as its version; or nothing.
versioned_rust() {
  apt-cache pkgnames rustc-1. | sed -nE 's/^rustc-1\.([0-9]+)$/\1/p' | sort -n |
    awk -v min="$RUST_MIN_MINOR" '$1 >= min { best = $1 } END { if (best) print "1." best }'
}

# Makes a distribution's cargo and rustc reachable under their plain names.
link_rust() {
  mkdir -p "$KT_CACHE/rust/bin"
  ln -sf "$1" "$KT_CACHE/rust/bin/cargo"
  ln -sf "$2" "$KT_CACHE/rust/bin/rustc"
}

install_rust() {
  [ -f "$KT_ROOT/src/text/rust/Cargo.toml" ] || return 0
  cargo_ok cargo && return
  has_apt || die "cargo >= 1.$RUST_MIN_MINOR is missing; install Rust"
  need_root rustc cargo
  apt_update
  local version
  if [ -n "$(apt-cache pkgnames rustc-web)" ]; then
    apt_install rustc-web cargo-web
  elif version="$(versioned_rust)" && [ -n "$version" ]; then
    apt_install "rustc-$version" "cargo-$version"
    link_rust "/usr/bin/cargo-$version" "/usr/bin/rustc-$version"
  else
    apt_install rustc cargo
  fi
  hash -r
  cargo_ok cargo || die "the distribution's cargo is older than 1.$RUST_MIN_MINOR; install a newer Rust"
}

# The fuzzers need clang with its run-time library; any version of the list does.
install_clang() {
  local version
  for version in $CLANG_VERSIONS; do
    if command -v "clang++-$version" >/dev/null &&
      [ -z "$(missing_packages "libclang-rt-$version-dev")" ]; then
      return
    fi
  done
  has_apt || die "clang >= 16 is missing; install it with its compiler-rt"
  need_root clang-19 libclang-rt-19-dev
  apt_update
  for version in $CLANG_VERSIONS; do
    if [ -n "$(apt-cache pkgnames "libclang-rt-$version-dev")" ]; then
      apt_install "clang-$version" "libclang-rt-$version-dev"
      return
    fi
  done
  die "no package of clang 16 to 19 was found"
}

install_python() {
  [ -f "$KT_VENV/.complete" ] && "$KT_PYTHON" -c '' 2>/dev/null && return
  local python=/usr/bin/python3
  [ -x "$python" ] || python=python3
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is missing"
  say "making the Python environment $KT_VENV"
  rm -rf "$KT_VENV"
  logged "make a Python environment" "$python" -m venv "$KT_VENV"
  logged "install the Python packages" "$KT_PYTHON" -m pip install --disable-pip-version-check \
    --no-input --no-deps -r "$KT_ROOT/tools/setup/requirements.txt"
  touch "$KT_VENV/.complete"
}

# More Python packages: those of requirements-$1.txt; $2 says what and why.
install_python_group() {
  local wanted="$KT_ROOT/tools/setup/requirements-$1.txt" mark="$KT_VENV/.$1" stamp
  stamp="$(sha256sum < "$wanted")"
  [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ] && return
  say "installing $2"
  logged "install $2" "$KT_PYTHON" -m pip install --disable-pip-version-check --no-input --no-deps \
    --no-cache-dir -r "$wanted"
  echo "$stamp" >"$mark"
}

# The CUDA compiler, headers and cuBLASLt: 400 MB to fetch.
install_cuda() {
  [ "$KT_CUDA_ROOT" = "$KT_CUDA_HOME/nvidia/cu13" ] || return 0
  [ -f "$KT_CUDA_HOME/.complete" ] && return
  say "installing the CUDA compiler into $KT_CUDA_HOME (400 MB)"
  rm -rf "$KT_CUDA_HOME"
  logged "install the CUDA compiler" "$KT_PYTHON" -m pip install --disable-pip-version-check --no-input --no-deps \
    --no-cache-dir --target "$KT_CUDA_HOME" -r "$KT_ROOT/tools/setup/requirements-cuda.txt"
  touch "$KT_CUDA_HOME/.complete"
}

install_tidy() {
  [ -x "$KT_VENV/bin/clang-tidy" ] && return
  say "installing clang-tidy"
  logged "install clang-tidy" "$KT_PYTHON" -m pip install --disable-pip-version-check --no-input --no-deps \
    clang-tidy==19.1.0
}

# The npm packages of a folder with a lock file, into KT_TEST_CACHE/NAME.
install_npm() {
  local from="$KT_ROOT/tests/$1" to="$KT_TEST_CACHE/$1" stamp
  [ -f "$from/package-lock.json" ] || return 0
  stamp="$(sha256sum < "$from/package-lock.json")"
  [ "$(cat "$to/.complete" 2>/dev/null)" = "$stamp" ] && return
  say "installing the npm packages of tests/$1"
  mkdir -p "$to"
  rm -f "$to/.complete"
  cp "$from/package.json" "$from/package-lock.json" "$to/"
  # Not `npm ci`: newer npm refuses a lock file that leaves out optional packages of other systems.
  logged "install the npm packages of tests/$1" npm install --prefix "$to" --omit=optional --ignore-scripts \
    --no-audit --no-fund
  echo "$stamp" >"$to/.complete"
}

mkdir -p "$KT_CACHE" "$KT_TEST_CACHE"
exec 9>"$KT_CACHE/setup.lock"
if command -v flock >/dev/null; then flock 9; fi
: >"$LOG"

install_packages
install_rust
install_python
install_npm interop
for group in "$@"; do
  case "$group" in
    cuda) install_cuda ;;
    fuzz) install_clang ;;
    tidy) install_tidy ;;
    torch) install_python_group torch "PyTorch for the tests of the Python package (2 GB)" ;;
    clients)
      install_npm serve/js
      install_python_group clients "LangChain and LiteLLM for the tests of the server"
      ;;
    web) install_web ;;
    *) die "unknown set-up group '$group' (known: clients, cuda, fuzz, tidy, torch, web)" ;;
  esac
done
