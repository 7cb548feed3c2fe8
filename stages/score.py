"""Grade responses, and compute log p, H, S* and E[S] of every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Device, Dtype, Inputs, Json, OnlyNew, Output, Quiet, Tee


def run(argv: list[str]) -> int:
    """The `entropyctl score` command."""
    return commands.run("score", score, argv)


def score(
    inputs: Inputs = None,
    reward: commands.Reward = None,
    policy: commands.Policy = None,
    ref: Annotated[
        str | None, typer.Option(metavar="DIR", help="Reference model: log p of the tokens, as ref_logprobs.")
    ] = None,
    prm: Annotated[
        str | None, typer.Option(metavar="DIR", help="Implicit reward model: log p of the tokens, as prm_logprobs.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option(metavar="DIR", help="Critic, a token classifier with one label: values.")
    ] = None,
    keep_old: Annotated[
        bool,
        typer.Option("--keep-old", help="With --policy: keep logprobs and entropies as old_logprobs, old_entropies."),
    ] = False,
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

    --ref and --prm write log p of the tokens under other models, at the same temperature; --critic the value of the
    state before each token. Any may be left out or run later: `score --ref DIR scored.parquet` adds its column alone.
    Several models in one command are in memory one after another, loaded anew for every step; `score` commands in
    a pipe each keep theirs.

    `--reward python:MODULE:FUNCTION` calls FUNCTION(data_source, solution_str, ground_truth, extra_info), as verl
    does; it returns a number (correct where above 0) or a dict with "score" and perhaps "acc" and "pred".
    """
    params = dict(locals())
    from contextlib import ExitStack
    from functools import reduce

    from entropyctl.errors import EngineError, UsageError, one_line
    from entropyctl.reporting import report
    from entropyctl.rewards import GRADE_COLUMNS, Grader, GradeSummary, grade_rows
    from entropyctl.table import new_record, notice, read, write
    from entropyctl.table.header import with_facts

    grading = reward not in (None, "none")
    models = {"policy": policy, "ref": ref, "prm": prm, "critic": critic}
    scoring = any(path is not None for path in models.values())
    if not grading and not scoring:
        raise UsageError(
            "nothing to do; give --reward to grade, --policy to compute token statistics, or both (or --ref, --prm, "
            "--critic)"
        )
    if keep_old and policy is None:
        raise UsageError("--keep-old: belongs to --policy, which replaces the log-probabilities and entropies")
    needs = [*(["response"] if grading else []), *(["prompt_tokens", "tokens"] if scoring else [])]
    needs += ["logprobs", "entropies"] if keep_old else []
    wanted = [*needs, "answer", "data_source", "extra"] if only_new else None
    record = new_record("score", params)
    context: dict[str, Any] = {}
    passes: list[Callable[[Any], Any]] = []  # what is done to the rows of a step, in order
    made: list[str] = []
    scorers: list[Any] = []
    allowed = tuple(allow_mismatch or ())
    with read(inputs or ["-"], columns=wanted, needs=needs, allow_mismatch=allowed) as source, ExitStack() as stack:
        if grading:
            grader = stack.enter_context(Grader(str(reward), timeout=timeout, workers=workers))
            grades = GradeSummary()
            passes.append(lambda rows: grade_rows(rows, grader, source.path, grades))
            made += GRADE_COLUMNS
        if scoring:
            from entropyctl.policy.scorer import open_scorers

            scorers = open_scorers(
                source,
                models,
                dtype=dtype,
                device=device,
                token_budget=token_budget,
                quiet=quiet,
                keep_old=keep_old,
            )
        for scorer in scorers:
            passes.append(scorer.score)
            made += scorer.columns
            record[scorer.role] = scorer.policy.digest
            context = with_facts(context, scorer.context(source.context, dtype))
        only = made if only_new else None
        sink = stack.enter_context(write(output, "scored", record, source, context=context, only=only, tee=tee))
        for step in source:
            rows = reduce(lambda rows, one: one(rows), passes, step.rows)
            sink.put(step.number, rows)
        if grading and sink.rows and grades.outcomes["error"] == sink.rows:
            raise EngineError(f"--reward {reward}: failed on every response; the first: {grader.first_error}")
        summary = {"rows": sink.rows, **(grades.as_dict() if grading else {})}
        for scorer in scorers:
            summary |= scorer.as_dict()
        sink.summarise(**summary)
        if grading and grader.first_error and not quiet:
            notice(f"score: the first grading error: {one_line(grader.first_error)}")
    report("score", summary, as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
