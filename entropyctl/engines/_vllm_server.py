"""The child of `entropyctl serve`: vLLM's own server with our settings, which ends when its parent does."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
from typing import Any

from entropyctl.engines._vllm_setup import engine_arguments, prepare_process
from entropyctl.errors import UsageError

GUARD = "entropyctl.engines._vllm_guard.LoopbackOnly"


def flags(options: dict[str, Any]) -> list[str]:
    """Engine arguments as words of a command line."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def main(directory: str, port: str, dtype: str, arguments: str) -> None:
    """Check the arguments, and become vLLM's server.

    Args:
        directory: of the checkpoint.
        port: on 127.0.0.1.
        dtype: number type of the weights.
        arguments: vLLM's engine arguments that the user gave, a JSON object of texts.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The server's engine is always a process of its own.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    prepare_process("auto")
    try:
        options = engine_arguments(json.loads(arguments), dtype=dtype, batch_rows=None)
    except UsageError as error:
        print(f"entropyctl serve: {error}", file=sys.stderr)
        sys.exit(UsageError.exit_code)
    ours = ["--model", directory, "--host", "127.0.0.1", "--port", port, "--middleware", GUARD, "--enable-scale-out"]
    quiet = ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    sys.argv = ["vllm", *ours, *quiet, *flags(options)]
    # Its command `vllm serve` is not in every build of it; this module is.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """Standard input is a pipe that the parent holds: its end is the parent's, however that came."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
