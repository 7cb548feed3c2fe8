"""Measure a policy: unbiased pass@k, average and majority of scored responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Inputs, Json, Quiet

if TYPE_CHECKING:
    import pyarrow as pa

    from entropyctl.engines import Sampling

Ks = Annotated[
    list[str] | None,
    typer.Option("-k", metavar="K[,K]...", help="Which pass@k to report; may be repeated. Default: every k up to n."),
]
EvalOutput = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the counts by problem, as Parquet.")
]
Samples = Annotated[int, typer.Option("--n", "-n", metavar="N", help="With --policy: responses to each problem.")]
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
    from entropyctl.engines import Sampling
    from entropyctl.errors import ThresholdCrossed, UsageError
    from entropyctl.laws import evaluate as ev
    from entropyctl.table import new_record, write

    ks = chosen_ks(k)
    if policy is not None and inputs:
        raise UsageError(f"{inputs[0]}: scored files and --policy exclude each other; give one of them")
    if policy is not None and max(ks, default=1) > n:
        raise UsageError(f"-k {max(ks)}: pass@k needs k <= n, and --n is {n}; choose a smaller k or sample more")
    record = new_record("eval", params)
    if policy is None:
        evals, origin = _of_files(inputs or ["-"], tuple(allow_mismatch or ()))
    else:
        sampling = Sampling(temperature, top_p, top_k, max_tokens, tuple(stop or ()))
        evals, origin = _of_policy(policy, sampling, params, record)
    summary = ev.summarise(evals, ks)
    if output:
        with write(output, "evals", record, **origin) as sink:
            sink.put(0, evals)
            sink.summarise(**summary)
    _report(summary, bool(ks), json, quiet, stdout_is_data=output == "-")
    average = summary["pooled"]["avg@n"]["mean"]
    if fail_under is not None and average < fail_under:
        raise ThresholdCrossed(f"avg@n is {average:.4f}, below --fail-under {fail_under:g}")


def _of_files(inputs: list[str], allow: tuple[str, ...]) -> tuple[pa.Table, dict[str, Any]]:
    """The evaluation of scored files, and what its own file says of where it came from."""
    from entropyctl.laws import evaluate as ev
    from entropyctl.table import read

    with read(inputs, columns=ev.COLUMNS, needs=ev.NEEDS, allow_mismatch=allow) as source:
        evals = ev.evaluate((step.rows for step in source), source.path)
    responses = int(sum(evals["n"].to_pylist()))
    return evals, {"context": source.context, "inputs": source.origins(responses), "chain": source.chain}


def _of_policy(
    policy: str, sampling: Sampling, params: dict[str, Any], record: dict[str, Any]
) -> tuple[pa.Table, dict[str, Any]]:
    """The same of responses that are sampled and scored here; `params` are the command's options."""
    from entropyctl.chain import sample_and_score
    from entropyctl.laws import evaluate as ev
    from entropyctl.policy import find_policy
    from entropyctl.table import notice, write

    found = find_policy(policy)
    prompts = commands.required("--prompts", params["prompts"])
    reward = commands.required("--reward", params["reward"])
    scored = sample_and_score(
        found,
        prompts,
        reward,
        sampling,
        announce=(lambda text: None) if params["quiet"] else notice,
        columns=commands.pairs("--column", params["column"]),
        **{name: params[name] for name in CHAIN},
    )
    record["policy"] = found.digest
    context = {"sampling": sampling.context(), "policies": {str(found.version): found.digest}}
    origin: dict[str, Any] = {"context": context, "inputs": [{"path": prompts}]}
    if params["tee"]:
        with write(params["tee"], "scored", record, **origin) as kept:
            kept.put(0, scored)
    return ev.evaluate([scored], prompts), origin


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
