#!/usr/bin/env bash
# Sets everything up and runs all tests: bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

# Compiling the kernels is a test: where no CUDA compiler is found, one comes from PyPI.
if ! reason="$(PYTHONPATH=kernels python -m megaxlm_kernels.toolchain)"; then
    echo "tests: $reason; installing nvcc"
    python -m pip --disable-pip-version-check install -qq -c launch/constraints.txt \
        --no-build-isolation -e ".[nvcc]"
fi

ruff check .
ruff format --check .
mypy --strict --follow-imports=silent megaxlm/config megaxlm/data megaxlm/objectives \
    kernels/megaxlm_kernels data_tools/megaxlm_data

# Unit tests share the cores; tests that start several processes run one after the other.
unset PYTHONDONTWRITEBYTECODE  # each of some hundred processes would compile our modules anew
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
python -m pytest -q -n "$(env -u OMP_NUM_THREADS nproc)" --dist loadfile -m "not distributed and not gpu" tests
python -m pytest -q -m "distributed and not gpu" tests
