#!/usr/bin/env bash
# Installs what Tandem needs: `scripts/setup.sh` to run it, `scripts/setup.sh test` to test it too, `scripts/setup.sh peers`
# to measure it beside others.
# Everything goes into .venv, contracts/node_modules and tests/players/node_modules, except what Debian or Ubuntu packages
# and is missing.
# What is there already is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly MODE=${1:-run}
readonly VENV=.venv

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else return 1; fi
}

# Packages of the system, by apt; false where they cannot be had.
apt_install() {
  local log
  have apt-get || return 1
  say "installing $* with apt"
  log=$(mktemp)
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || true  # one dead source is no reason to stop
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
    > "$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; return 1; }
  rm -f "$log"
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if have "$name" && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$name"
      return
    fi
  done
  fail "expected Python 3.11 or newer, found $(python3 --version 2>&1 || echo none); install it and try again"
}

make_venv() {
  if [ -x "$VENV/bin/pip" ]; then return; fi
  local python package
  python=$(find_python)
  package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then  # Debian splits these off
    apt_install "$package" || fail "expected the Python module venv: install $package and try again"
  fi
  say "creating $VENV with $("$python" --version)"
  "$python" -m venv --clear "$VENV"
}

# The two builds of ONNX Runtime overwrite each other's files, so exactly one is installed.
onnxruntime() {
  if have nvidia-smi && nvidia-smi >/dev/null 2>&1; then echo gpu; else echo cpu; fi
}

stamp() { cat "$@" pyproject.toml | sha256sum; }

pip() { "$VENV/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }

python_packages() {
  local build other run all
  build=$(onnxruntime)
  [ "$build" = gpu ] && other=onnxruntime || other=onnxruntime-gpu
  run=("requirements/$build.txt")
  all=("${run[@]}")
  [ "$MODE" = test ] && all+=(requirements/dev.txt)
  if grep -qsxF "$(stamp "${all[@]}")" "$VENV/.installed"; then return; fi
  say "installing Python packages from ${all[*]} into $VENV (the first time takes minutes)"
  if pip show "$other" >/dev/null 2>&1; then pip uninstall --yes onnxruntime onnxruntime-gpu; fi
  pip install --require-hashes "${all[@]/#/--requirement=}"
  pip install --no-deps --no-build-isolation --editable .
  { stamp "${run[@]}"; stamp "${all[@]}"; } > "$VENV/.installed"
}

# The contract's static analyser, apart from the rest: it asks for an older web3.
slither() {
  local home=$VENV/slither stamp
  stamp=$(sha256sum < requirements/slither.txt)
  if grep -qsxF "$stamp" "$home/.installed"; then return; fi
  say "installing slither into $home"
  "$VENV/bin/python" -m venv --clear "$home"
  "$home/bin/python" -m pip --quiet --disable-pip-version-check --no-input install --require-hashes \
    --requirement=requirements/slither.txt
  echo "$stamp" > "$home/.installed"
}

# NVIDIA's load generator, whose binary wants a newer C library than Debian 12 has.
perf_analyzer() {
  local stamp
  stamp=$(sha256sum < requirements/perf.txt)
  if grep -qsxF "$stamp" "$VENV/.perf"; then return; fi
  if "$VENV/bin/python" -c 'import platform, sys
name, version = platform.libc_ver()
sys.exit(name != "glibc" or tuple(map(int, version.split("."))) < (2, 38))'; then
    pip install --no-deps --require-hashes --requirement=requirements/perf.txt
  else
    say "no perf_analyzer here, which wants glibc 2.38: its test will be skipped"
  fi
  echo "$stamp" > "$VENV/.perf"
}

system_programs() {
  local missing=()
  have ffmpeg || missing+=(ffmpeg)
  have bwrap || missing+=(bubblewrap)
  have setpriv || missing+=(util-linux)
  [ "$MODE" = test ] && ! have chromium && ! have chromium-browser && ! have google-chrome && missing+=(chromium)
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  apt_install "${missing[@]}" || say "could not install ${missing[*]}; going on. Install them yourself:" \
    "\`$VENV/bin/tandem node doctor\` says what a node misses"
}

npm_packages() {
  local stamp program build=$VENV/npm
  stamp=$(sha256sum < contracts/package-lock.json)
  if grep -qsxF "$stamp" contracts/node_modules/.installed; then return; fi
  have npm || fail "expected npm, found none: install Node.js 18 or newer with npm and try again"
  say "installing Foundry's anvil and forge, and solc, from npm into contracts/node_modules"
  # Foundry's executables need no Node.js, yet npm leaves them out where it is older than they name, as Debian's is;
  # and the scripts that would then fetch them take the newest version, not the locked one. So neither has a say.
  rm -rf "$build" && mkdir "$build" && cp contracts/package.json "$build"
  sed 's/"node": ">=20"/"node": "*"/' contracts/package-lock.json > "$build/package-lock.json"
  (cd "$build" && npm ci --ignore-scripts --loglevel=error --no-progress >/dev/null)
  for program in anvil forge; do
    "$build/node_modules/@foundry-rs/$program"-*/bin/"$program" --version >/dev/null || fail "npm installed no $program that runs here"
  done
  rm -rf contracts/node_modules && mv "$build/node_modules" contracts/ && rm -rf "$build"
  echo "$stamp" > contracts/node_modules/.installed
}

# The servers that benchmarks/bench_serving.py measures beside ours, each by itself: they ask for versions of their own.
peers() {
  local name home stamp
  for name in fastapi mlserver pytriton; do
    home=$VENV/peers/$name
    stamp=$(sha256sum < "requirements/peers/$name.txt")
    if grep -qsxF "$stamp" "$home/.installed"; then continue; fi
    say "installing $name into $home"
    # Triton brings the interpreter as a library of the system, which only the system's own Python fits.
    "$( [ -x /usr/bin/python3 ] && echo /usr/bin/python3 || find_python )" -m venv --clear "$home"
    "$home/bin/python" -m pip --quiet --disable-pip-version-check --no-input install --require-hashes \
      --requirement="requirements/peers/$name.txt"
    echo "$stamp" > "$home/.installed"
  done
}

# hls.js, shaka-player and dash.js, which a browser plays streams with in the tests.
players() {
  local stamp
  stamp=$(sha256sum < tests/players/package-lock.json)
  if grep -qsxF "$stamp" tests/players/node_modules/.installed; then return; fi
  say "installing players from npm into tests/players/node_modules"
  (cd tests/players && npm ci --ignore-scripts --loglevel=error --no-progress --no-audit --no-fund >/dev/null)
  echo "$stamp" > tests/players/node_modules/.installed
}

make_venv
python_packages
if [ "$MODE" = test ]; then slither; perf_analyzer; fi
if [ "$MODE" = peers ]; then peers; exit; fi
system_programs
npm_packages
[ "$MODE" != test ] || players
