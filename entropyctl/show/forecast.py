"""A forecast of the entropy as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from entropyctl.show.console import print_table
from entropyctl.show.text import number, visible

if TYPE_CHECKING:
    from rich.console import Console

LEVELS = {
    "all_wrong": "all wrong",
    "hard": "hard (c/n <= 1/3)",
    "medium": "medium (1/3 to 2/3)",
    "easy": "easy (c/n >= 2/3)",
    "all_right": "all right",
}
SIGNS = {"positive": "A > 0", "negative": "A < 0"}
QUADRANTS = {
    "positive_above": "A > 0, S* > E[S]",
    "positive_below": "A > 0, S* < E[S]",
    "negative_above": "A < 0, S* > E[S]",
    "negative_below": "A < 0, S* < E[S]",
}
Block = dict[str, Any]


def print_forecast(to: Console, summary: dict[str, Any]) -> None:
    """Print the summary of `entropyctl forecast`: a block for each step, and where there are several, one for all.

    Args:
        to: where it goes.
        summary: what --json prints.
    """
    rate, slope = f"eta = {number(summary['eta'])}", summary["calibration"]
    if slope is not None:
        rate += f" = learning rate {number(summary['learning_rate'])} x {number(slope)}, calibrated"
    to.print(f"predicted change of entropy per counted token, nats; {rate}")
    blocks = [(f"step {block['step']}", block) for block in summary["steps"]]
    if len(blocks) != 1:
        blocks.append((f"all {len(blocks)} steps", summary["all"]))
    for title, block in blocks:
        to.print()
        counts = ", ".join(f"{block[name]} {name}" for name in ("prompts", "responses", "tokens"))
        titles = [f"{title}: {counts}", *(visible(name) for name in block["under"])]
        print_table(to, titles, [list(line) for line in forecast_lines(block)], left=titles[:1])
        to.print()
        _print_covariances(to, block)


def forecast_lines(block: Block) -> Iterator[tuple[str, ...]]:
    """The lines of a block's table: what each is of, and its number under each mask."""
    under = list(block["under"].values())

    def line(label: str, *path: str) -> tuple[str, ...]:
        values = under
        for name in path:
            values = [entry[name] for entry in values]
        return label, *(number(value) for value in values)

    def section(title: str, part: str, labels: dict[str, str]) -> Iterator[tuple[str, ...]]:
        if labels:
            yield title, *("" for _ in under)
        yield from (line(f"  {label}", part, name) for name, label in labels.items())

    yield line("total", "total")
    yield from section("by sign of A", "by_sign", SIGNS)
    yield from section("by pass rate", "by_difficulty", {name: _level(block, name) for name in _levels(block)})
    yield from section("by quadrant", "by_quadrant", QUADRANTS)
    yield line("largest 0.1 % of tokens", "largest", "change")
    share = [entry["largest"]["share"] for entry in under]
    yield "  their share of |dH|", *("-" if part is None else f"{100 * part:.1f} %" for part in share)
    yield line("tokens with a weight", "pulling")
    if any(entry["penalised"] for entry in under):
        yield line("tokens with a KL penalty (not predicted)", "penalised")


def _levels(block: Block) -> list[str]:
    """The difficulties that the block has prompts of."""
    return [name for name in LEVELS if block["difficulty"] and block["difficulty"][name]["prompts"]]


def _level(block: Block, name: str) -> str:
    found = block["difficulty"][name]
    none = "" if found["tokens_with_advantage"] else ", no advantage"
    return f"{LEVELS[name]}: {found['prompts']} prompt{'s' if found['prompts'] > 1 else ''}{none}"


def _print_covariances(to: Console, block: Block) -> None:
    columns = {"all": block} | {LEVELS[name]: block["difficulty"][name] for name in _levels(block)}
    labels = {"cov_A_centred_S": "cov(A, S* - E[S])", "cov_A_logp": "cov(A, log p)"}
    rows = [[label, *(number(of[name]) for of in columns.values())] for name, label in labels.items()]
    print_table(to, ["", *columns], rows, left=[""])
