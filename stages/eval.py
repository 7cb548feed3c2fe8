"""Measure a policy: unbiased pass@k, average and majority of scored responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Inputs, Json, Quiet

if TYPE_CHECKING:
    import pyarrow as pa

    from entropyctl.engines import Sampling
    from entropyctl.policy import Policy
    from entropyctl.prompts import Problem

Ks = Annotated[
    list[str] | None,
    typer.Option("-k", metavar="K[,K]...", help="Which pass@k to report; may be repeated. Default: every k up to n."),
]
EvalOutput = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the counts by problem, as Parquet.")
]
Samples = Annotated[
    int, typer.Option("--n", "-n", min=1, metavar="N", help="With --policy: responses to each problem.")
]
Keep = Annotated[
    str | None, typer.Option("--tee", metavar="FILE", help="With --policy: keep the scored responses in this file.")
]
FailUnder = Annotated[
    float | None, typer.Option(metavar="X", help="End with status 10 when the average over problems is below X.")
]


def run(argv: list[str]) -> int:
    """The `entropyctl eval` command."""
    return commands.run("eval", evaluate, argv)


def evaluate(
    inputs: Inputs = None,
    k: Ks = None,
    output: EvalOutput = None,
    fail_under: FailUnder = None,
    policy: commands.Policy = None,
    prompts: commands.Prompts = None,
    reward: commands.Reward = None,
    n: Samples = 8,
    tee: Keep = None,
    temperature: commands.Temperature = 1.0,
    top_p: commands.TopP = 1.0,
    top_k: commands.TopK = 0,
    max_tokens: commands.MaxTokens = 512,
    stop: commands.Stop = None,
    seed: commands.Seed = 0,
    chat: commands.Chat = True,
    column: commands.Column = None,
    batch_rows: commands.BatchRows = 64,
    token_budget: commands.TokenBudget = 4096,
    timeout: commands.GraderTimeout = 5.0,
    workers: commands.Workers = None,
    dtype: commands.Dtype = "float32",
    device: commands.Device = "auto",
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a policy on scored responses; or, with --policy, --prompts and --reward, sample and score them first.

    pass@k = 1 - C(n - c, k) / C(n, k) for each problem with n responses, c of them correct; mean over problems.

    Without bias, for every k up to n (arXiv 2107.03374); intervals are Student's over problems. maj@n: whether
    the most frequent answer is correct; answers that tie count with the fraction of them that is correct.
    Responses that could not be graded (unparsable, timeout, error) count as not correct.
    """
    params = dict(locals())
    import os
    from contextlib import ExitStack

    from entropyctl.errors import ThresholdCrossed, UsageError
    from entropyctl.laws import evaluate as ev
    from entropyctl.table import new_record, notice, read, write

    ks = chosen_ks(k)
    for flag, value in (("--prompts", prompts), ("--reward", reward), ("--tee", tee)):
        if policy is None and value is not None:
            raise UsageError(f"{flag}: belongs to --policy, which samples first; scored files need none of it")
    if output is not None and tee is not None and os.path.realpath(output) == os.path.realpath(tee):
        raise UsageError(f"-o and --tee both name {tee}; give them different files, or leave one out")
    if policy is not None and inputs:
        raise UsageError(f"{inputs[0]}: scored files and --policy exclude each other; give one of them")
    if policy is not None and max(ks, default=1) > n:
        raise UsageError(f"-k {max(ks)}: pass@k needs k <= n, and --n is {n}; choose a smaller k or sample more")
    record = new_record("eval", params)
    with ExitStack() as stack:
        if policy is None:
            source = stack.enter_context(
                read(inputs or ["-"], columns=ev.COLUMNS, needs=ev.NEEDS, allow_mismatch=tuple(allow_mismatch or ()))
            )
            origin: dict[str, Any] = {"source": source}
        else:
            found, problems, origin = _task(policy, params)
            record["policy"] = found.digest
        # Outputs are opened first: a place that cannot be written is known before anything is sampled.
        sink = stack.enter_context(write(output, "evals", record, **origin)) if output else None
        if policy is None:
            announce = (lambda text: None) if quiet else notice
            evals = ev.evaluate((step.rows for step in source), source.path, announce)
        else:
            scored = _sampled(found, problems, params, record, origin)
            evals = ev.evaluate([scored], str(prompts))
        summary = ev.summarise(evals, ks)
        if sink is not None:
            sink.put(0, evals, rows_read=sum(evals["n"].to_pylist()))
            sink.summarise(**summary)
    _report(summary, bool(ks), json, quiet, stdout_is_data=output == "-")
    average = summary["pooled"]["avg@n"]["mean"]
    if fail_under is not None and average < fail_under:
        raise ThresholdCrossed(f"avg@n is {average:.4f}, below --fail-under {fail_under:g}")


def _task(policy: str, params: dict[str, Any]) -> tuple[Policy, list[Problem], dict[str, Any]]:
    """The policy, the problems, and what a file made from them says of its origin; `params` are the options."""
    from entropyctl.chain import chain_context
    from entropyctl.policy import find_policy
    from entropyctl.prompts import load_prompts, prompts_digest
    from entropyctl.table import notice

    found = find_policy(policy)
    path = commands.required("--prompts", params["prompts"])
    commands.required("--reward", params["reward"])
    announce = (lambda text: None) if params["quiet"] else notice
    problems = load_prompts(path, columns=commands.pairs("--column", params["column"]), announce=announce)
    return (
        found,
        problems,
        {
            "context": chain_context(found, _sampling(params), params["dtype"]),
            "inputs": [{"path": path, "digest": prompts_digest(problems)}],
        },
    )


def _sampled(
    policy: Policy, problems: list[Problem], params: dict[str, Any], record: dict[str, Any], origin: dict[str, Any]
) -> pa.Table:
    """Responses to the problems, graded and scored; kept in the file of --tee."""
    from contextlib import nullcontext

    from entropyctl.chain import sample_and_score
    from entropyctl.table import again, write

    with write(params["tee"], "scored", again(record), **origin) if params["tee"] else nullcontext() as kept:
        options = {name: params[name] for name in CHAIN}
        scored = sample_and_score(
            policy, problems, params["reward"], _sampling(params), name=params["prompts"], **options
        )
        if kept is not None:
            kept.put(0, scored)
    return scored


def _sampling(params: dict[str, Any]) -> Sampling:
    from entropyctl.engines import Sampling

    drawn = {name: params[name] for name in ("temperature", "top_p", "top_k", "max_tokens")}
    return Sampling(**drawn, stop=tuple(params["stop"] or ()))


# Options that go to the chain as they are.
CHAIN = ("n", "seed", "chat", "timeout", "workers", "batch_rows", "token_budget", "dtype", "device", "quiet")


def chosen_ks(words: list[str] | None) -> list[int]:
    """`["1,2", "4"]` as `[1, 2, 4]`.

    Raises:
        UsageError: one is not a number.
    """
    from entropyctl.errors import UsageError

    parts = [part.strip() for word in words or [] for part in word.split(",")]
    if odd := next((part for part in parts if not part.isdecimal()), None):
        raise UsageError(f"-k {odd}: must be a whole number or several with commas, such as 1,2,4")
    return [int(part) for part in parts]


def _report(summary: dict[str, Any], chosen: bool, as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    from entropyctl.reporting import report
    from entropyctl.show.console import console
    from entropyctl.show.evaluation import print_evaluation

    if as_json:
        report("eval", summary, as_json=True, quiet=quiet, stdout_is_data=stdout_is_data)
    elif not quiet:
        print_evaluation(console(to_stderr=stdout_is_data), summary, chosen)
