"""From tables to the page and its summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.laws.evaluate import as_last_evaluated
from entropyctl.laws.summary import summarise
from entropyctl.report import changes, entropy_law, pass_curves, pass_rates, progress
from entropyctl.report.gather import Gathered, gather
from entropyctl.report.library import Library
from entropyctl.report.page import Browser, Tile, page
from entropyctl.report.progress import Curves
from entropyctl.report.responses import MOST_TOKENS, TELLING
from entropyctl.report.section import Section
from entropyctl.report.sources import Found
from entropyctl.show.text import number
from entropyctl.show.tokenizer import Tokenizer
from entropyctl.table.schema import load_schema


class Report(NamedTuple):
    """The page, and what is in it."""

    html: str
    summary: dict[str, Any]


def build(
    found: Found,
    library: Library,
    shown: int,
    tokenizer_for: Callable[[str | None], Tokenizer | None],
    allow: tuple[str, ...] = (),
    advance: Callable[[int], None] = lambda rows: None,
) -> Report:
    """Go through the tables and put the page together.

    Args:
        found: the tables.
        library: what draws.
        shown: responses that the page shows, at most.
        tokenizer_for: the tokenizer to show tokens with, given the digest of the one that sampled, or None.
        allow: fields of the context on which tables may disagree.
        advance: told how many responses have been read.

    Raises:
        InputError: a table is damaged, or holds nothing that a report shows.
        MismatchError: tables that are laid over one another do not belong together.
    """
    seen = gather(found.responses, shown, allow, advance)
    tokenizer = tokenizer_for(seen.context.get("tokenizer")) if seen.responses.count else None
    curves = progress.of_metrics(found.metrics) or seen.curves.curves()
    evals, origin = _evals(found, seen)
    passes = None if evals is None else summarise(evals)
    sections = [
        progress.section(curves),
        changes.section(found.metrics),
        entropy_law.section(found.metrics, found.evals, curves),
        pass_curves.section(passes, origin),
        pass_rates.section(evals, origin),
        seen.discriminator.section(tokenizer.size if tokenizer else None),
        seen.covariances.section(),
        seen.forking.section((lambda token: tokenizer.decode([token])) if tokenizer else None),
    ]
    browser = _browser(seen, tokenizer)
    html = page(found.name, _tiles(curves, seen, passes), sections, browser, found.notes, library)
    return Report(html, _summary(curves, seen, sections, browser))


def _evals(found: Found, seen: Gathered) -> tuple[pa.Table | None, str]:
    """Counts by problem, and whose responses they count."""
    if found.evals:
        # An evaluation of an earlier version lacks columns, which are then not known.
        whole = pa.schema([(column.name, column.arrow_type) for column in load_schema("evals").columns])
        tables = [whole.empty_table(), *(entry.rows for entry in found.evals)]
        return as_last_evaluated(pa.concat_tables(tables, promote_options="permissive")), "of the evaluations"
    return seen.evals(), "of the responses sampled in training, so that each version has problems of its own"


def _tiles(curves: Curves | None, seen: Gathered, passes: dict[str, Any] | None) -> list[Tile]:
    tiles = []
    if curves is not None:
        steps = curves.step
        tiles.append(Tile("steps", f"{len(steps)}", f"{steps[0]:.0f} to {steps[-1]:.0f}" if len(steps) > 1 else ""))
        for name, values, unit in (("entropy", curves.entropy, " nats"), ("reward", curves.reward, "")):
            known = values[~np.isnan(values)]
            if len(known):
                first = f"at first {number(float(known[0]), 3)}" if len(known) > 1 else ""
                tiles.append(Tile(f"{name}, last step" if first else name, number(float(known[-1]), 3) + unit, first))
    if passes is not None:
        first, last = passes["by_policy"][0], passes["by_policy"][-1]
        before, now = (number(group["pass@k"]["1"]["mean"], 3) for group in (first, last))
        about = f"version {first['policy_version']}: {before}" if first is not last else ""
        tiles.append(Tile(f"pass@1, version {last['policy_version']}", now, about))
    if seen.responses.count:
        tiles.append(Tile("responses", f"{seen.responses.count:,}", f"{seen.tokens:,} tokens"))
    return tiles


def _browser(seen: Gathered, tokenizer: Tokenizer | None) -> Browser:
    payload = seen.responses.payload(tokenizer.decode if tokenizer else None)
    if payload is None:
        brings = "`--responses N`" if seen.responses.count else "tables of responses (`entropyctl rollout`, `score`)"
        return Browser("Responses, token by token", brings, None)
    shown, of = len(payload["rows"]), payload["of"]
    if shown == of:
        return Browser(f"All {of:,} responses, token by token", _lead("", payload), payload)
    lead = (
        f"Of {of:,} responses {shown:,} are in this file: as many of each step and outcome as there is room for, drawn "
        f"at random, and for one in {TELLING} the extremes of entropy, length, effect, mismatch and masking. "
    )
    return Browser(f"{shown:,} of {of:,} responses, token by token", _lead(lead, payload), payload)


def _lead(about: str, payload: dict[str, Any]) -> str:
    cut = any(row["shown"] < row["length"] for row in payload["rows"])
    limit = f"The first {payload['longest']:,} tokens of each are here, {MOST_TOKENS:,} in all. " if cut else ""
    return (
        f"{about}{limit}Numbers are rounded to a 65,535th of their range. Open a response, and point at a token or go "
        "there with the arrow keys for its numbers."
    )


def _summary(curves: Curves | None, seen: Gathered, sections: list[Section], browser: Browser) -> dict[str, Any]:
    return {
        "steps": len(seen.steps) if curves is None else len(curves.step),
        "responses": seen.responses.count,
        "responses_shown": len(browser.payload["rows"]) if browser.payload else 0,
        "tokens": seen.tokens,
        "sections": [section.id for section in sections if not section.missing],
        "missing": {section.id: section.missing for section in sections if section.missing},
    }
