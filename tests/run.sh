#!/usr/bin/env bash
# All tests in an environment of their own. Arguments go to pytest: tests/run.sh -k mask
set -euo pipefail

cd "$(dirname "$0")/.."
venv=${VENV:-.venv-test}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint examples/constraints-cpu.txt --editable '.[dev]'
export PATH="$(realpath "$venv")/bin:$PATH"

ruff check .
ruff format --check .
mypy
python -m pytest "$@"
