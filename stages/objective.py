"""Compute a policy loss and its gradient per token from saved log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from entropyctl import commands, methods
from entropyctl.commands import AllowMismatch, Inputs, Json, OnlyNew, Output, Quiet, Tee

# What the loss of `update` has beside the objective.
NAMES = ("norm", "all_rows", "kl", "kl_coef", "kl_to", "ref_kl", "ref_kl_coef")


def run(argv: list[str]) -> int:
    """The `entropyctl objective` command."""
    return methods.run("objective", "objectives", objective, argv)


def objective(
    method: str,
    function: Callable[..., Any],
    params: dict[str, Any],
    inputs: Inputs = None,
    output: Output = None,
    tee: Tee = None,
    only_new: OnlyNew = False,
    reduction: commands.Reduction = None,
    norm: commands.Norm = None,
    all_rows: commands.AllRows = False,
    kl: commands.Kl = "k3",
    kl_coef: commands.KlCoef = 0.0,
    kl_to: commands.KlTo = "old",
    ref_kl: commands.RefKl = "k3",
    ref_kl_coef: commands.RefKlCoef = 0.0,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute a policy loss and its gradient per token from saved log-probabilities.

    What `update --objective METHOD` would do to each token, without a model: logprobs are of the policy in
    training, old_logprobs (`score --policy NEW --keep-old`) of the one that the step started from. A step is one
    mini-batch. Writes loss_terms and loss_gradients.
    """
    options = {k: v for k, v in locals().items() if k in NAMES}
    from functools import partial

    from entropyctl.objectives import default_reduction
    from entropyctl.reporting import report
    from entropyctl.table import new_record, read, write
    from entropyctl.training import Recipe, columns_for
    from entropyctl.training.offline import ALWAYS, COLUMNS, evaluate_objective

    options["reduction"] = reduction or default_reduction(method)
    once: dict[str, Any] = {"mini_batches": 1, "epochs": 1, "grad_clip": 1.0, "token_budget": 1, "dtype": "float32"}
    recipe = Recipe(objective=partial(function, **params), **options, **once)
    needed, wanted = columns_for(recipe.reads, ALWAYS)
    wanted.append("greedy")
    record = new_record(f"objective {method}", {**params, **options})
    totals = {"loss": 0.0, "kl": 0.0, "clipped": 0.0, "tokens": 0}
    with (
        read(
            inputs or ["-"],
            columns=wanted if only_new else None,
            needs=needed,
            allow_mismatch=tuple(allow_mismatch or ()),
        ) as source,
        write(output, "masked", record, source, only=COLUMNS if only_new else None, tee=tee) as sink,
    ):
        for step in source:
            found = evaluate_objective(step.rows, recipe)
            sink.put(step.number, found.rows)
            for name in totals:
                totals[name] += getattr(found, name)
        tokens = max(totals["tokens"], 1)
        summary = {
            "loss": totals["loss"],
            "kl": totals["kl"] / tokens,
            "clip_fraction": totals["clipped"] / tokens,
            "tokens": totals["tokens"],
        }
        sink.summarise(**summary)
    report(f"objective {method}", summary, as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
