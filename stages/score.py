"""Grade responses, and compute log p, H, S* and E[S] of every token."""

from __future__ import annotations

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Device, Dtype, Inputs, Json, OnlyNew, Output, Quiet, Tee


def run(argv: list[str]) -> int:
    """The `entropyctl score` command."""
    return commands.run("score", score, argv)


def score(
    inputs: Inputs = None,
    reward: commands.Reward = None,
    policy: commands.Policy = None,
    output: Output = None,
    tee: Tee = None,
    only_new: OnlyNew = False,
    timeout: commands.GraderTimeout = 5.0,
    workers: commands.Workers = None,
    token_budget: commands.TokenBudget = 4096,
    dtype: Dtype = "float32",
    device: Device = "auto",
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Grade responses, and compute log p, H, S* and E[S] of every token.

    --reward writes reward, outcome and predicted. --policy writes the statistics of
    p = softmax(logits / temperature), with the temperature that sampled:

    H = -sum_v p_v log p_v        S* = p_k (H + log p_k)        E[S] = H sum p^2 + sum p^2 log p

    Either may be left out: `score --policy` on graded rows keeps their grades.
    """
    params = dict(locals())
    from contextlib import ExitStack

    from entropyctl.errors import UsageError
    from entropyctl.reporting import report
    from entropyctl.rewards import GRADE_COLUMNS, Grader, GradeSummary, grade_rows
    from entropyctl.table import new_record, read, write

    if reward in (None, "none") and policy is None:
        raise UsageError("nothing to do; give --reward to grade, --policy to compute token statistics, or both")
    needs = ["prompt_id"]
    needs += ["response"] if reward not in (None, "none") else []
    needs += ["prompt_tokens", "tokens"] if policy is not None else []
    wanted = [*needs, "answer", "data_source", "extra", "policy_version"] if only_new else None
    allowed = tuple(allow_mismatch or ())
    totals = GradeSummary()
    with ExitStack() as stack:
        source = stack.enter_context(read(inputs or ["-"], columns=wanted, needs=needs, allow_mismatch=allowed))
        record = new_record("score", params)
        made: list[str] = []
        context: dict[str, object] = {}
        steps = (step for step in source)
        if reward not in (None, "none"):
            grader = stack.enter_context(Grader(str(reward), timeout=timeout, workers=workers))
            made += GRADE_COLUMNS
            steps = (step._replace(rows=grade_rows(step.rows, grader, source.path, totals)) for step in steps)
        if policy is not None:
            from entropyctl.policy.scorer import check_sampler, open_scorer
            from entropyctl.tokenstats.table import COLUMNS

            found = check_sampler(source, policy, allowed)
            scorer = open_scorer(
                found, source.temperature, dtype=dtype, device=device, token_budget=token_budget, quiet=quiet
            )
            record["policy"] = found.digest
            context = {"scoring": {"policy": found.digest, "dtype": dtype}}
            made += COLUMNS
            steps = (step._replace(rows=scorer.score(step.rows)) for step in steps)
        only = made if only_new else None
        sink = stack.enter_context(write(output, "scored", record, source, context=context, only=only, tee=tee))
        for step in steps:
            sink.put(step.number, step.rows)
            totals.add_rows(step.rows)
        sink.summarise(**totals.as_dict())
    report("score", totals.as_dict(), as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
