"""Models that score the steps of a table: the policy, and on request a reference, a reward model and a critic.

A model alone is loaded at once and stays. Several take turns: each is loaded again for every step and given up after
it, so that memory holds one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.cluster.pool import Pool
from entropyctl.errors import MismatchError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.checkpoint import check_critic_labels, load_critic, load_model, parse_device, parse_dtype
from entropyctl.policy.following import Following, Turning, first_version
from entropyctl.policy.spread import Spread, add_over
from entropyctl.progress import progress
from entropyctl.table import Source
from entropyctl.table.columns import flat_values, row_lengths, with_column
from entropyctl.table.header import Context
from entropyctl.tokenstats import SplitModel, split_critic, split_model, table
from entropyctl.tokenstats.table import COLUMNS as STATISTICS
from entropyctl.tokenstats.table import TOP_COLUMNS

# A model that stays is given as it is; one that takes turns is loaded whenever it is asked for.
Give = Callable[[], SplitModel | Spread]
# Adds what is computed with the model to the rows.
Add = Callable[..., pa.Table]


@dataclass
class Scorer:
    """A policy ready to score; it remembers the mean entropy."""

    policy: Policy
    model: Give
    add: Add
    quiet: bool
    keep_old: bool = False
    top_k: int | None = None
    tokens: int = 0
    entropy: float = 0.0
    role: str = "policy"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are made."""
        top = TOP_COLUMNS if self.top_k is not None else ()
        return (*STATISTICS, *(f"old_{name}" for name in KEPT if self.keep_old), *top)

    def as_dict(self) -> dict[str, Any]:
        """Tokens and their mean entropy, over all steps so far."""
        return {"tokens": self.tokens, "entropy": self.entropy / max(self.tokens, 1)}

    def score(self, rows: pa.Table) -> pa.Table:
        """The rows of a step with the token statistics of the policy."""
        for name in KEPT if self.keep_old else ():
            rows = with_column(rows, f"old_{name}", rows[name])
        tokens = int(row_lengths(rows["tokens"]).sum())
        with progress("score", tokens, quiet=self.quiet) as advance:
            rows = self.add(rows, self.model(), advance=advance)
        self.tokens += tokens
        self.entropy += float(flat_values(rows["entropies"]).sum(dtype=np.float64))
        return rows


# What a new scoring can keep of the one that it replaces.
KEPT = ("logprobs", "entropies")


@dataclass
class OtherScorer:
    """A model beside the policy, ready to add its one column; it remembers the column's mean."""

    role: str  # ref, prm or critic
    policy: Policy
    model: Give
    column: str
    add: Add
    quiet: bool
    tokens: int = 0
    total: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are made."""
        return (self.column,)

    def as_dict(self) -> dict[str, Any]:
        """The column's mean over the tokens of all steps so far."""
        return {f"mean_{self.column}": self.total / max(self.tokens, 1)}

    def score(self, rows: pa.Table) -> pa.Table:
        """The rows of a step with the model's column."""
        tokens = int(row_lengths(rows["tokens"]).sum())
        with progress(f"score --{self.role}", tokens, quiet=self.quiet) as advance:
            rows = self.add(rows, self.model(), advance=advance)
        self.tokens += tokens
        self.total += float(flat_values(rows[self.column]).sum(dtype=np.float64))
        return rows


def open_scorer(
    policy: Policy,
    temperature: float,
    *,
    dtype: str,
    device: str,
    token_budget: int,
    quiet: bool,
    model: Any = None,
) -> Scorer:
    """Load a policy to score with.

    Args:
        policy: the checkpoint.
        temperature: of the sampling.
        dtype: number type of the weights.
        device: where to compute.
        model: the checkpoint's model, where an engine has loaded it already.
        token_budget: most tokens in one forward pass.
        quiet: show no progress.

    Raises:
        InputError: the checkpoint cannot be loaded.
        EngineError: its output layer is not understood.
    """
    split = loader("policy", policy, dtype, device)() if model is None else split_model(model)
    add = _adding("policy", temperature, token_budget, spread=False)
    return Scorer(policy, _staying(split), add, quiet)


def open_scorers(
    source: Source,
    paths: dict[str, str | None],
    *,
    dtype: str,
    device: str,
    token_budget: int,
    quiet: bool,
    keep_old: bool = False,
    top_k: int | None = None,
    at: str = "sampled",
    pool: Pool | None = None,
) -> list[Following]:
    """Everything that is to score the rows, in the order of `paths`.

    Args:
        source: the rows; what it allows to differ may differ.
        paths: the checkpoint, or directory of versions, for each role: policy, ref, prm, critic; None leaves it out.
        dtype: number type of the weights.
        device: where to compute.
        token_budget: most tokens in one forward pass.
        quiet: show no progress.
        keep_old: the policy keeps the log-probabilities and entropies that it replaces.
        top_k: how many of the likeliest tokens the policy adds in each place; not on actors.
        at: which version of a directory of versions scores a step as the policy, `sampled` or `latest`. As reward
            model or critic, which a loop trains too, it is the latest; the reference stays what it is.
        pool: actors that hold the models; without it they are in this process.

    Raises:
        InputError: a checkpoint is not there, or a critic is none; what cannot be loaded is known when it is.
        MismatchError: another policy or tokenizer sampled.
    """
    allow = source.allow_mismatch
    found = {
        role: check_tokenizer(source, find_policy(path), allow) for role, path in paths.items() if path is not None
    }
    ats = {"policy": at, "ref": "fixed"}
    if "critic" in found:
        check_critic_labels(found["critic"])
    temperature = source.temperature if found.keys() - {"critic"} else 1.0
    scorers: list[Following] = []
    for role, newest in found.items():
        at = "fixed" if newest.root is None else ats.get(role, "latest")
        policy = first_version(source, role, newest, at)
        stays = len(found) == 1
        model: Turning | Spread
        if pool is None:
            model = Turning(policy, partial(_load, role, dtype, device), stays=stays)
        else:
            model = Spread(pool, role, policy, stays=stays)
        add = _adding(role, temperature, token_budget, spread=pool is not None)
        if role == "policy" and top_k is not None:
            add = partial(add, top_k=top_k)
        scorer: Scorer | OtherScorer
        if role == "policy":
            scorer = Scorer(policy, model, add, quiet, keep_old, top_k)
        else:
            scorer = OtherScorer(role, policy, model, _columns(role)[0], add, quiet)
        scorers.append(Following(scorer, model, source, at, dtype, keep_old and role == "policy"))
    return scorers


def _columns(role: str) -> tuple[str, ...]:
    return STATISTICS if role == "policy" else ("values",) if role == "critic" else (f"{role}_logprobs",)


def _adding(role: str, temperature: float, token_budget: int, *, spread: bool) -> Add:
    """What is computed with a role's model, here or on actors."""
    settings: dict[str, Any] = {} if role == "critic" else {"temperature": temperature}
    if role not in ("policy", "critic"):
        settings["name"] = _columns(role)[0]
    name = {"policy": "add_statistics", "critic": "add_values"}.get(role, "add_logprobs")
    if spread:
        return partial(add_over, name, _columns(role), settings, token_budget=token_budget)
    add: Add = getattr(table, name)
    return partial(add, token_budget=token_budget, **settings)


def _load(role: str, dtype: str, device: str, policy: Policy) -> SplitModel:
    return loader(role, policy, dtype, device)()


def _staying(split: SplitModel) -> Give:
    return lambda: split


def loader(role: str, policy: Policy, dtype: str, device: str) -> Callable[[], SplitModel]:
    """How a role's model is loaded; a wrong number type or device is known at once."""
    kind, where = parse_dtype(dtype), parse_device(device)
    if role == "critic":
        return lambda: split_critic(load_critic(policy, kind, where))
    return lambda: split_model(load_model(policy, kind, where))


def check_tokenizer(source: Source, policy: Policy, allow: tuple[str, ...]) -> Policy:
    """A checkpoint, if it reads text as the policy that sampled the rows does.

    Args:
        source: rollouts.
        policy: the checkpoint.
        allow: fields that may differ: `tokenizer`.

    Raises:
        MismatchError: another tokenizer sampled.
    """
    sampled = source.context.get("tokenizer")
    if sampled not in (None, policy.tokenizer_digest) and "tokenizer" not in allow:
        raise MismatchError(
            f"{source.path}: was sampled with another tokenizer than that of {policy.directory}; "
            "give one with the same, or --allow-mismatch tokenizer"
        )
    return policy


def scoring_context(sampled: Context, policy: Policy, dtype: str) -> Context:
    """What a scored file says of its scoring: for each version that sampled, the digest of the policy that scored."""
    versions = sampled.get("policies") or {str(policy.version): policy.digest}
    return {"scoring": {"policies": dict.fromkeys(versions, policy.digest), "dtype": dtype}}
