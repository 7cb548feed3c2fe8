"""Watch a running loop: versions, who waits for whom, speeds, entropy and reward."""

from __future__ import annotations

from typing import Annotated

import typer

from entropyctl import commands


def run(argv: list[str]) -> int:
    """The `entropyctl top` command."""
    return commands.run("top", top, argv)


def top(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Directory of the run, which holds policy/ and metrics/.")
    ] = "run",
    metrics: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where `update --metrics` writes; metrics/ beside the policy by default."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print the state once and end, as where the output is no terminal.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the state once, as one JSON object.")] = False,
) -> None:
    """Watch a running loop: versions, who waits for whom, speeds, entropy and reward.

    Shows every stage of a pipe that began with `rollout --policy RUN/policy`: what it does and for how long, the
    version that it computes with (-1: one behind the newest), its share of the time at work and its tokens per second
    at work, over the last 8 steps. Bytes that go over from one to the next are nobody's work.

    A stage that has died, or failed, stays in sight until the loop begins again; one of another machine is called
    silent after 30 seconds without a word. Of a loop on files, and of one that has ended, versions and curves are
    shown. Predicted and realised change of the entropy have a scale of their own each.

    q or Ctrl-C ends it.
    """
    from entropyctl.reporting import report
    from entropyctl.show.console import console
    from entropyctl.show.display import can_display, display, show_once
    from entropyctl.show.watch import find_run, look

    found = find_run(run, metrics)
    if json:
        report("top", look(found), as_json=True, quiet=False, stdout_is_data=False)
    elif once or not can_display(console()):
        show_once(look(found))
    else:
        display(lambda: look(found))
