"""Predict what a step would do to the entropy before it is made, also under other masks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, History, Inputs, Json, Quiet

LearningRate = Annotated[
    float | None,
    typer.Option("--lr", metavar="X", help="Learning rate, above 0; with --history, the history's last by default."),
]
MaskList = Annotated[
    str | None,
    typer.Option(
        metavar="MASK[,MASK]...",
        help="Masks to lay on the rows, one column each: NAME or NAME:key=value:key=value; NAME+NAME composes.",
    ),
]
Contributions = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Also write each token's predicted change, as Parquet."),
]


def run(argv: list[str]) -> int:
    """The `entropyctl forecast` command."""
    return commands.run("forecast", forecast, argv)


def forecast(
    inputs: Inputs = None,
    lr: LearningRate = None,
    masks: MaskList = None,
    output: Contributions = None,
    history: History = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict what a step would do to the entropy before it is made, also under other masks.

    dH_t = -eta w_t r_t A_t (S*_t - E[S]_t),  eta = learning rate, r_t = p / p_old (arXiv 2602.03392, Theorem 3.3)

    Means per counted token of the rows as they are, so that parts sum to the total and masks compare: by sign of A;
    by sign of A and of S* - E[S]; by difficulty, the pass rate c/n of the prompt's group (hard c/n <= 1/3, medium
    below 2/3, easy from there; all_wrong c = 0 and all_right c = n, which have no advantage under GRPO); and of
    the 0.1 % of the tokens with the largest |dH|, with their share of sum |dH|. Penalties (kl_coefs) are counted,
    not predicted.

    cov_A_centred_S is the covariance of A with S* - E[S] over the counted tokens (2602.03392), cov_A_logp that of A
    with log p (2505.22617); either above 0 speaks for a falling entropy.

    The theory moves each token's logits alone, so order and sign mean more than size. --history calibrates: eta is
    then the learning rate times the slope of realised on predicted changes of the run's earlier steps.

    --json: learning_rate, calibration (the slope, or null), eta, masks; steps (a list) and all (over the steps: of
    means those weighted by tokens, of covariances those within a step), each with prompts, responses, tokens,
    tokens_with_advantage, cov_A_centred_S, cov_A_logp, difficulty (the same by difficulty; null without outcome),
    and under, which for "as is" and each mask has total, by_sign, by_difficulty, by_quadrant
    (positive_above is A > 0 and S* > E[S]), largest (tokens, change, share), pulling (tokens with a weight) and
    penalised (tokens with a KL penalty).
    """
    from contextlib import ExitStack

    from entropyctl.forecast import NEW, Forecast, columns_for
    from entropyctl.mask_specs import parse_masks
    from entropyctl.metrics import PastMetrics, read_history
    from entropyctl.table import new_record, read, write

    specs = parse_masks("--masks", masks) if masks is not None else {}
    metrics = read_history(history) if history is not None else {}
    facts = step_size(lr, metrics, history)
    needed, wanted = columns_for(specs)
    record = new_record("forecast", {"lr": facts["learning_rate"], "masks": masks, "history": history})
    found = Forecast(facts["eta"], specs, PastMetrics(history))
    with ExitStack() as stack:
        allowed = tuple(allow_mismatch or ())
        source = stack.enter_context(read(inputs or ["-"], columns=wanted, needs=needed, allow_mismatch=allowed))
        sink = stack.enter_context(write(output, "masked", record, source, only=NEW)) if output else None
        for step in source:
            rows = found.add(step.number, step.rows)
            if sink is not None:
                sink.put(step.number, rows)
        summary = facts | {"masks": list(specs)} | found.as_dict()
        if sink is not None:
            sink.summarise(**facts, **summary["all"])
    _report(summary, json, quiet, stdout_is_data=output == "-")


def step_size(lr: float | None, metrics: dict[str, Any], history: str | None) -> dict[str, Any]:
    """The learning rate, what it is multiplied by, and the product.

    Raises:
        UsageError: there is no learning rate, or none above 0.
    """
    import math

    from entropyctl.dynamics import calibration, latest_rate
    from entropyctl.errors import UsageError
    from entropyctl.table import notice

    rate = latest_rate(metrics) if lr is None else lr
    if rate is None:
        raise UsageError("--lr is missing; give it the learning rate of the step, for example 1e-6")
    if not 0 < rate < math.inf:
        raise UsageError(f"--lr {rate:g}: must be a finite number above 0")
    slope = calibration(metrics)
    if slope is None and history is not None:
        notice(f"{history}: its changes do not follow what was predicted; eta is the learning rate itself")
    return {"learning_rate": rate, "calibration": slope, "eta": rate * (slope or 1.0)}


def _report(summary: dict[str, Any], as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    from entropyctl.reporting import report
    from entropyctl.show.console import console
    from entropyctl.show.forecast import print_forecast

    if as_json:
        report("forecast", summary, as_json=True, quiet=quiet, stdout_is_data=stdout_is_data)
    elif not quiet:
        print_forecast(console(to_stderr=stdout_is_data), summary)
