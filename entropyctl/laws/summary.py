"""What the counts of an evaluation say of a policy: pass@k, averages and consensus, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import UsageError
from entropyctl.laws._student import normal_quantile, student_quantile
from entropyctl.laws.counts import FAILURES
from entropyctl.laws.majority import consensus_at_k
from entropyctl.laws.pass_at_k import pass_curve, sampling_variance
from entropyctl.laws.pass_rates import distribution
from entropyctl.table.columns import filled, one_chunk, row_lengths, row_of_token

Array = npt.NDArray[Any]


def summarise(evals: pa.Table, ks: Sequence[int] | None = None, confidence: float = 0.95) -> dict[str, Any]:
    """Pass@k, avg@n and cons@k of an `evals` table: pooled, by policy version, and by data source.

    Means give every problem the same weight; pooled means over data sources do, too. In cons@k a problem in which no
    answer was read counts as 0. Entropy is the mean over tokens. Each mean has two intervals:

    low, high                    what another draw of problems from the same source, and of n responses to each, would
                                 give: mean +- t se, se^2 = max(S^2, V) / P, S^2 the variance over the P problems, V the
                                 mean variance of sampling within a problem. S^2 holds both kinds of noise; V alone is
                                 left where all problems happen to agree.
    samples_low, samples_high    what other responses to these same problems would give: mean +- z sqrt(V / P).

    Versions of a policy are asked the same problems, so their counts are no independent draws of problems. With
    several versions the pooled means weigh every problem of every version the same and have no interval; `problems`
    counts each problem once.

    Args:
        evals: what `evaluate` returned.
        ks: which k to report, of pass@k and cons@k; by default every k from 1 to the smallest n of the group for
            pass@k, and that n for cons@k.
        confidence: level of the intervals.

    Raises:
        UsageError: a k is above the n of some problem.
    """
    measured = _Measured.of(evals)
    if ks:
        _check_ks(measured, ks)
    versions = sorted(set(measured.version_P.tolist()))
    sources = sorted({source for source in measured.source_P.tolist() if source is not None})
    by_policy = {v: measured.version_P == v for v in versions}
    by_source = {(v, s): by_policy[v] & (measured.source_P == s) for v in versions for s in sources}
    everything = np.ones(evals.num_rows, bool)
    return {
        "confidence": confidence,
        "pooled": _group(measured, everything, ks, confidence if len(versions) == 1 else None),
        "by_policy": [
            {"policy_version": v, **_group(measured, chosen_P, ks, confidence)} for v, chosen_P in by_policy.items()
        ],
        "by_data_source": [
            {"policy_version": v, "data_source": s, **_group(measured, chosen_P, ks, confidence)}
            for (v, s), chosen_P in by_source.items()
            if chosen_P.any()
        ],
    }


class _Measured(NamedTuple):
    """What there is of each of `P` problems."""

    version_P: Array
    source_P: Array  # of object: strings and None
    prompt_P: Array
    n_P: Array
    c_P: Array
    truncated_P: Array  # NaN where it is not known, as below
    tokens_P: Array
    entropy_P: Array
    failures: dict[str, Array]
    reasons: tuple[Array, Array, Array]  # [R] problem, reason, count
    votes: Votes

    @classmethod
    def of(cls, evals: pa.Table) -> _Measured:
        """Out of an `evals` table."""

        def numbers(name: str) -> Array:
            return np.array(evals[name].to_pylist(), np.float64)  # None is NaN

        def objects(name: str) -> Array:
            return np.array(evals[name].to_pylist(), object)

        reasons = one_chunk(evals["finish_reasons"])
        entries = reasons.flatten()
        return cls(
            version_P=numbers("policy_version").astype(np.int64),
            source_P=objects("data_source"),
            prompt_P=objects("prompt_id"),
            n_P=numbers("n").astype(np.int64),
            c_P=numbers("c").astype(np.int64),
            truncated_P=numbers("truncated"),
            tokens_P=numbers("tokens"),
            entropy_P=numbers("entropy"),
            failures={name: numbers(name) for name in FAILURES},
            reasons=(
                row_of_token(row_lengths(reasons)),
                np.array(entries.field("reason").to_pylist(), object),
                filled(entries.field("count")),
            ),
            votes=Votes(evals),
        )


def _check_ks(found: _Measured, ks: Sequence[int]) -> None:
    fewest = int(found.n_P.argmin())
    for k in ks:
        if not 1 <= k <= found.n_P[fewest]:
            raise UsageError(
                f"-k {k}: problem {found.prompt_P[fewest]} has n = {found.n_P[fewest]} responses of policy version "
                f"{found.version_P[fewest]}, and pass@k needs 1 <= k <= n; choose a smaller k or sample more"
            )


def _group(found: _Measured, chosen_P: Array, ks: Sequence[int] | None, confidence: float | None) -> dict[str, Any]:
    n_P, c_P = found.n_P[chosen_P], found.c_P[chosen_P]
    responses, fewest = int(n_P.sum()), int(n_P.min())
    shown = sorted(set(ks or range(1, fewest + 1)))
    curve_PK, noise_PK = pass_curve(n_P, c_P, shown[-1]), sampling_variance(n_P, c_P, shown[-1])
    tokens_P, entropy_P = found.tokens_P[chosen_P], found.entropy_P[chosen_P]
    measured_P = ~np.isnan(entropy_P)
    truncated_P = found.truncated_P[chosen_P]
    votes = {k: found.votes.at(k, chosen_P) for k in (sorted(set(ks)) if ks else [fewest])}
    of, reasons, counts = found.reasons
    return {
        "problems": len(set(found.prompt_P[chosen_P].tolist())),
        "responses": responses,
        "n": fewest,
        "pass@k": {str(k): interval(curve_PK[:, k - 1], noise_PK[:, k - 1], confidence) for k in shown},
        "avg@n": interval(c_P / n_P, noise_PK[:, 0], confidence),
        "cons@k": {str(k): interval(values_P, None, confidence) for k, values_P in votes.items()}
        if found.votes.known(chosen_P)
        else None,
        "pass_rates": distribution(n_P, c_P),
        "truncated": None if np.isnan(truncated_P).all() else float(np.nansum(truncated_P)) / responses,
        "finish_reasons": {
            reason: int(counts[(reasons == reason) & chosen_P[of]].sum()) for reason in dict.fromkeys(reasons.tolist())
        },
        **{outcome: int(count_P[chosen_P].sum()) for outcome, count_P in found.failures.items()},
        "tokens": int(tokens_P.sum()),
        "entropy": float((entropy_P * tokens_P)[measured_P].sum() / tokens_P[measured_P].sum())
        if tokens_P[measured_P].sum()
        else None,
    }


class Votes:
    """cons@k of the problems of an evaluation, each computed once."""

    def __init__(self, evals: pa.Table) -> None:
        """Of an `evals` table."""
        self._evals = evals
        self._n_P, self._c_P = (np.array(evals[name].to_pylist()) for name in ("n", "c"))
        self._majority_P = np.array(evals["majority_correct"].to_pylist(), np.float64)
        self._found: dict[int, Array] = {}

    def known(self, chosen_P: Array) -> bool:
        """Whether any answers were read."""
        return not bool(np.isnan(self._majority_P[chosen_P]).all())

    def at(self, k: int, chosen_P: Array) -> Array:
        """cons@k of the chosen problems; 0 where no answer was read."""
        if k not in self._found:
            self._found[k] = np.where((self._n_P == k) | (self._c_P == 0), np.nan_to_num(self._majority_P), np.nan)
        values_P = self._found[k]
        for problem in np.flatnonzero(chosen_P & np.isnan(values_P)).tolist():
            answers = self._evals["predictions"][problem].as_py()
            counts = [answer["count"] for answer in answers]
            unanswered = int(self._n_P[problem]) - sum(counts)
            values_P[problem] = consensus_at_k(counts, [answer["correct"] for answer in answers], unanswered, k)
        return values_P[chosen_P]


def interval(values_P: Array, noise_P: Array | None, confidence: float | None) -> dict[str, float | None]:
    """Mean over problems, its standard error, and both intervals of `summarise`; one that leaves 0 to 1 is cut there.

    Args:
        values_P: `[P]` a value for each problem.
        noise_P: `[P]` the variance of each by sampling alone; None where it is not known. Then, where all values agree,
            the interval over problems is that of P draws of right or wrong, (sum + 1/2) / (P + 1) of them right.
        confidence: level; without one there are no intervals.
    """
    mean, count = float(values_P.mean()), len(values_P)
    found: dict[str, float | None] = dict.fromkeys(("se", "low", "high", "samples_low", "samples_high"))
    between = float(values_P.var(ddof=1)) if count > 1 else 0.0
    if confidence is not None and noise_P is not None:
        found |= _around(mean, normal_quantile(confidence) * (float(noise_P.mean()) / count) ** 0.5, "samples_")
        between = max(between, float(noise_P.mean()))
    elif between == 0:
        expected = (float(values_P.sum()) + 0.5) / (count + 1)
        between = expected * (1 - expected)
    if confidence is not None and count > 1:
        error = (between / count) ** 0.5
        found |= {"se": error} | _around(mean, student_quantile(confidence, count - 1) * error)
    return {"mean": mean, **found}


def _around(mean: float, half: float, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}low": max(mean - half, 0.0), f"{prefix}high": min(mean + half, 1.0)}
