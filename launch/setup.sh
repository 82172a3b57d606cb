#!/usr/bin/env bash
# Makes the virtual environment .venv of this checkout, once; sourced by quickstart.sh and tests/run.sh.
# A second call compares one stamp and returns at once. Change PYTHON to choose the interpreter.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${MEGAXLM_VENV:-$ROOT/.venv}"

_find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or newer with the venv module was found; install one or set PYTHON" >&2
    return 2
}

_setup() {
    local stamp wanted python
    stamp="$VENV/.megaxlm-setup"
    wanted="$(cat "$ROOT/launch/constraints.txt" "$ROOT/pyproject.toml" | cksum) $ROOT"
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    command -v g++ >/dev/null 2>&1 || {
        echo "setup: no C++ compiler (g++) was found; install one (Debian: apt-get install g++)" >&2
        return 2
    }
    python="$(_find_python)"
    echo "setup: creating $VENV (once; a few minutes)"
    # One that a kill left without pip is completed.
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$VENV"
    local pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
    # torch first and by its exact version: a looser requirement would pull another build of it.
    "${pip[@]}" install --quiet -c "$ROOT/launch/constraints.txt" setuptools wheel
    "${pip[@]}" install --quiet -c "$ROOT/launch/constraints.txt" torch==2.13.0
    # deepspeed has no wheel; its build must see the torch just installed rather than fetch its own.
    # Beside a GPU its build asks for a CUDA compiler, although nothing is compiled before it is used.
    DS_ACCELERATOR=cpu DS_BUILD_OPS=0 "${pip[@]}" install --quiet -c "$ROOT/launch/constraints.txt" \
        --no-build-isolation deepspeed==0.19.8
    "${pip[@]}" install -qq -c "$ROOT/launch/constraints.txt" --no-build-isolation -e "$ROOT[dev]"
    echo "$wanted" >"$stamp"
    echo "setup: done"
}

_setup
export PATH="$VENV/bin:$PATH"
