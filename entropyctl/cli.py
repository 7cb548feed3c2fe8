"""The `entropyctl` command: finds a stage and hands over. Standard library only, so that help is instant."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sys

from entropyctl import __version__, collector, registry
from entropyctl.errors import one_line

# Groups for the help page. A stage that no group names (another package's, or new) is listed under "Other".
GROUPS = {
    "A training step, in order": ("rollout", "score", "advantage", "mask", "update"),
    "Beside it": ("serve", "top"),
    "Measure and predict": ("eval", "fit-law"),
    "Look ahead, from files": ("forecast", "objective", "select"),
    "Look at files": ("inspect", "compare", "report", "check", "schema"),
    "Other programs": ("import",),
    "Shell": ("completion",),
}
EXAMPLE = """\
  entropyctl rollout --policy run/policy --prompts train.parquet --n 8 \\
    | entropyctl score --policy run/policy --reward math \\
    | entropyctl advantage grpo | entropyctl mask clip-v \\
    | entropyctl update --policy run/policy --publish"""


def help_text() -> str:
    """The root help page, with one line for each stage taken from the stage's file."""
    listed = {name for group in GROUPS.values() for name in group}
    groups = dict(GROUPS)
    if other := tuple(name for name in registry.names("stages") if name not in listed):
        groups["Other"] = other
    known = registry.names("stages")
    lines = ["Usage: entropyctl STAGE [OPTIONS] [INPUT...]", ""]
    lines += ["The training loop of entropy-controlled RL, as programs that share one table.", ""]
    for title, stage_names in groups.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<11} {registry.summary('stages', name)}" for name in stage_names if name in known]
        lines.append("")
    lines += ["A training step as one pipe:", EXAMPLE, ""]
    lines += ["`entropyctl STAGE --help` tells the rest. A program `entropyctl-NAME` on PATH is a stage too."]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run `entropyctl` with `argv` (default: the process's arguments). Always ends by `SystemExit`."""
    args = sys.argv[1:] if argv is None else argv
    if argv is None:
        collector.collect_rarely()
    try:
        status = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 0  # the reader has enough
        _lead_nowhere()
    except KeyboardInterrupt:
        status = 130
    except Exception as error:  # a stage reports its own errors; what comes here is a stage that cannot be loaded
        if "--debug" in args:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            print("entropyctl: standard output: the disk is full; free some space", file=sys.stderr)
            _lead_nowhere()
            raise SystemExit(6) from None
        reason = one_line(f"{type(error).__name__}: {error}")
        print(f"entropyctl {args[0]}: cannot be loaded ({reason}); run again with --debug", file=sys.stderr)
        status = 1
    if argv is None and "torch" not in sys.modules:
        # What is left goes with the process, and to look through it for garbage would take 25 ms. But libraries of
        # models look at the end whether all of theirs has gone, and complain.
        gc.freeze()
    raise SystemExit(status)


def _lead_nowhere() -> None:
    """Whatever Python still wants to flush at exit must not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: list[str]) -> int:
    if not args or args[0] in ("--help", "-h", "help"):
        print(help_text())
        return 0 if args else 2
    if args[0] in ("--version", "-V"):
        print(f"entropyctl {__version__}")
        return 0
    name, rest = args[0], args[1:]
    module = registry.load_module("stages", name)
    if module is not None:
        run = module if callable(module) else module.run
        return int(run(rest))
    external = None if "/" in name else shutil.which(f"entropyctl-{name}")
    if external is None:
        known = ", ".join(registry.names("stages"))
        print(f"entropyctl: there is no stage '{name}'; known: {known}", file=sys.stderr)
        return 2
    try:
        os.execv(external, [external, *rest])
    except OSError as error:
        print(f"entropyctl: {external}: cannot be run ({error.strerror}); mend it", file=sys.stderr)
        return 2
