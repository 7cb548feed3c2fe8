"""Two evaluations of the same problems, laid side by side by problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.laws.paired import paired_curve
from entropyctl.laws.pass_rates import movement


def compare(
    here: pa.Table,
    there: pa.Table,
    *,
    confidence: float = 0.95,
    path: str = "the input",
    against: str = "the other",
    names: tuple[str, str] = ("the other", "this policy"),
) -> dict[str, Any]:
    """How the policy of one evaluation differs from that of another on the problems that both have.

    Args:
        here: an `evals` table of one version of a policy.
        there: another one, to which `here` is compared.
        confidence: level of the band, over all k together.
        path: name of `here`, for messages.
        against: name of `there`, for messages and for people.
        names: what the verdict calls the policies of `there` and `here`.

    Returns:
        `difference`, `low` and `high` of pass@k(here) - pass@k(there) for k = 1, 2, ..., with `better` and `worse`, the
        ranges of k at which the band says so, and a `verdict` in words (see `paired_curve`); `movement` of the pass
        rates with the names of the problems in `beyond_noise`; how many problems were `only_here` and `only_there`.

    Raises:
        UsageError: a table holds several versions.
        InputError: they have no problem in common.
    """
    rows_here, rows_there = _by_problem(here, path), _by_problem(there, against)
    common = [name for name in rows_here if name in rows_there]
    if not common:
        raise nothing_in_common(path, against)
    n_here, c_here = np.array([rows_here[name] for name in common]).T
    n_there, c_there = np.array([rows_there[name] for name in common]).T
    curve = paired_curve(n_there, c_there, n_here, c_here, confidence)
    moved = movement(n_there, c_there, n_here, c_here)
    known = bool(np.isfinite(curve.low).all())
    return {
        "against": against,
        "problems": len(common),
        "only_here": len(rows_here) - len(common),
        "only_there": len(rows_there) - len(common),
        "confidence": confidence,
        "difference": curve.difference.tolist(),
        "low": curve.low.tolist() if known else [None] * len(curve.low),
        "high": curve.high.tolist() if known else [None] * len(curve.high),
        "better": curve.better,
        "worse": curve.worse,
        "verdict": curve.verdict(*names),
        "movement": moved | {"beyond_noise": [common[i] for i in moved["beyond_noise"]]},
    }


def nothing_in_common(path: str, against: str) -> InputError:
    """The message for evaluations of different problems."""
    return InputError(f"{path}: has no problem in common with {against}; compare evaluations of one task")


def _by_problem(evals: pa.Table, path: str) -> dict[str, tuple[int, int]]:
    """n and c of each problem."""
    versions = sorted(set(evals["policy_version"].to_pylist()))
    if len(versions) > 1:
        listed = ", ".join(map(str, versions))
        raise UsageError(f"{path}: holds the policy versions {listed}; compare files of one version each")
    rows = zip(*(evals[name].to_pylist() for name in ("prompt_id", "n", "c")), strict=True)
    return {name: (n, c) for name, n, c in rows}
