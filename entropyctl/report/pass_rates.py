"""How the pass rates are distributed over the problems, and how they moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.laws.pass_rates import BINS, distribution, movement
from entropyctl.report.pass_curves import MISSING
from entropyctl.report.section import SEQUENCE, Figure, Section, absent, axis, listed, share

Array = npt.NDArray[np.int64]
ID, NAME = "rates", "Pass rates"
TITLE = "Which problems are solved always, sometimes, never?"
BARS = ("never", *(f"{100 * i // BINS}–{100 * (i + 1) // BINS}" for i in range(BINS)), "always")


def section(evals: pa.Table | None, origin: str) -> Section:
    """The distributions of the first version and of the last.

    Args:
        evals: an evals table.
        origin: whose responses they count, for people.
    """
    if evals is None:
        return absent(ID, NAME, TITLE, MISSING)
    rows = evals.select(["policy_version", "prompt_id", "n", "c"]).to_pylist()
    versions = sorted({row["policy_version"] for row in rows})
    ends = list(dict.fromkeys([versions[0], versions[-1]]))
    counts = {v: {row["prompt_id"]: (row["n"], row["c"]) for row in rows if row["policy_version"] == v} for v in ends}
    found = {version: distribution(*_arrays(list(of.values()))) for version, of in counts.items()}
    lead = (
        f"Problems by the share c/n of their responses that are right; {origin}. Those that are never or always solved "
        "teach nothing to a method that compares the responses of a group."
    )
    return Section(ID, NAME, _title(found), lead, _figure(found), notes=_moves(*counts.values()))


def _arrays(pairs: list[tuple[int, int]]) -> tuple[Array, Array]:
    n_P, c_P = np.array(pairs, np.int64).reshape(-1, 2).T
    return n_P, c_P


def _title(found: dict[int, dict[str, Any]]) -> str:
    version, of = list(found.items())[-1]
    total = of["all_wrong"] + of["mixed"] + of["all_right"]
    never, always = (share(of[kind] / total) for kind in ("all_wrong", "all_right"))
    return f"With version {version}, {never} of {total} problems are never solved and {always} always"


def _moves(first: dict[str, tuple[int, int]], last: dict[str, tuple[int, int]] | None = None) -> list[str]:
    """How the problems moved that both versions were asked."""
    if last is None:
        return []
    both = [name for name in first if name in last]
    if not both:
        return ["The two versions were asked different problems."]
    moved = movement(*_arrays([first[name] for name in both]), *_arrays([last[name] for name in both]))
    found, lost = (sum(part) for part in _crossings(moved["from_to"]))
    return [
        f"Of {len(both)} problems that both were asked the pass rate rose for {moved['rose']} (beyond noise for "
        f"{moved['rose_beyond_noise']}) and fell for {moved['fell']} ({moved['fell_beyond_noise']}); solved at last: "
        f"{found}, solved no longer: {lost}."
    ]


def _crossings(table: dict[str, dict[str, int]]) -> tuple[list[int], list[int]]:
    """Problems that were never solved and now are, and the other way round."""
    solved = ("mixed", "all_right")
    return [table["all_wrong"][kind] for kind in solved], [table[kind]["all_wrong"] for kind in solved]


def _figure(found: dict[int, dict[str, Any]]) -> Figure:
    data: list[Figure] = []
    for i, (version, of) in enumerate(found.items()):
        tally = np.array([of["all_wrong"], *of["histogram"], of["all_right"]])
        newest = i == len(found) - 1
        pattern = {"shape": "" if newest else "/", "fillmode": "overlay", "fgcolor": "@surface", "size": 7}
        data.append(
            {
                "type": "bar",
                "name": f"version {version}",
                "x": list(BARS),
                "y": listed(100 * tally / tally.sum()),
                "customdata": tally.tolist(),
                "marker": {"color": SEQUENCE[-1] if newest else SEQUENCE[1], "pattern": pattern},
                "hovertemplate": f"version {version}<br>%{{x}} right<br>%{{customdata}} problems, %{{y:.3g}} %"
                "<extra></extra>",
            }
        )
    layout = {
        "height": 400,
        "barmode": "group",
        "bargap": 0.2,
        "xaxis": axis("share of a problem's responses that are right, %", type="category", tickangle="auto"),
        "yaxis": axis("share of the problems, %"),
    }
    return {"data": data, "layout": layout}
