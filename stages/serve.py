"""Run a vLLM server on this machine for rollouts."""

from __future__ import annotations

from typing import Annotated

import typer

from entropyctl import commands
from entropyctl.commands import Dtype, Quiet


def run(argv: list[str]) -> int:
    """The `entropyctl serve` command."""
    return commands.run("serve", serve, argv)


def serve(
    policy: commands.Policy = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="On 127.0.0.1; 0 for a free one.")] = 8000,
    engine_arg: Annotated[
        list[str] | None, typer.Option("--engine-arg", metavar="NAME=VALUE", help="An argument of vLLM's; repeatable.")
    ] = None,
    dtype: Dtype = "float32",
    quiet: Quiet = False,
) -> None:
    """Run a vLLM server on this machine for rollouts.

    `entropyctl rollout --engine server --url http://127.0.0.1:PORT` samples with it; any number of these may, at once,
    as long as they ask for one version of the policy. It starts with the newest version, and the rollouts have it load
    the versions that they need.

    It listens on 127.0.0.1 alone and refuses what a browser sends, but every program on this machine may use it, and
    have it load other weights. It runs until SIGINT or SIGTERM ends it and all its processes; its address goes to
    stderr when it answers, which takes from half a minute on.
    """
    from entropyctl.engines._serve import serve_policy
    from entropyctl.policy import find_policy
    from entropyctl.table import notice

    found = find_policy(commands.required("--policy", policy))
    arguments = commands.pairs("--engine-arg", engine_arg)

    def announce(url: str) -> None:
        if not quiet:
            notice(f"serve: {url} serves {found.directory}")

    serve_policy(found, port=port, dtype=dtype, arguments=arguments, announce=announce)
