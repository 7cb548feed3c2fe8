"""Measure a policy: unbiased pass@k, average and consensus of scored responses; every night, if you like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Inputs, Json, Quiet
from entropyctl.flags import LogTo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from entropyctl.evaluation.evaluation import Evaluation
    from entropyctl.evaluation.history import History
    from entropyctl.evaluation.responses import Computing
    from entropyctl.evaluation.sampled import Wanted
    from entropyctl.evaluation.task import Task
    from entropyctl.policy import Policy
    from entropyctl.table.header import Record


class Sample(NamedTuple):
    """Sampling first."""

    policy: commands.Policy = None
    new_only: Annotated[
        str | None,
        typer.Option("--new-only", metavar="DIR", help="Every version of this policy that is not in --history yet."),
    ] = None
    prompts: commands.Prompts = None
    reward: commands.Reward = None
    n: Annotated[int, typer.Option("--n", "-n", min=1, metavar="N", help="Responses to each problem.")] = 8
    add_samples: Annotated[
        int | None,
        typer.Option("--add-samples", min=1, metavar="N", help="So many more than are kept, in place of --n."),
    ] = None
    tee: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Keep the scored responses here; with --history they are kept there."),
    ] = None
    temperature: commands.Temperature = 1.0
    top_p: commands.TopP = 1.0
    top_k: commands.TopK = 0
    max_tokens: commands.MaxTokens = 512
    stop: commands.Stop = None
    seed: commands.Seed = 0
    chat: commands.Chat = True
    column: commands.Column = None
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What generates: vllm (where it is installed, the default), transformers."),
    ] = None
    engine_arg: Annotated[
        list[str] | None, typer.Option("--engine-arg", metavar="NAME=VALUE", help="An argument of vLLM's; repeatable.")
    ] = None
    batch_rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Responses that are sampled side by side; the engine's own.")
    ] = None
    token_budget: commands.TokenBudget = 4096
    timeout: commands.GraderTimeout = 2.0
    workers: commands.Workers = None
    dtype: commands.Dtype = "float32"
    device: commands.Device = "auto"


# Of these, how the work is done, and not what is asked.
COMPUTING = ("device", "batch_rows", "token_budget", "timeout", "workers")


class Watch(NamedTuple):
    """Evaluations over time."""

    history: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Add this evaluation to a directory of evaluations, one file each."),
    ] = None
    skip_if_done: Annotated[
        bool,
        typer.Option(
            "--skip-if-done", help="Show what --history has of the same policy, task and parameters; sample nothing."
        ),
    ] = False
    alert: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="End with status 10 and a line when a rule over --history begins to hold, such as "
            "'pass@32 < previous - 2se'; it speaks once, until it no longer holds. May be repeated.",
        ),
    ] = None
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X", help="End with status 10 when a metric is below X: pass@8=0.3; X alone is of avg@n."
        ),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Compare with another evaluation (evals or scored responses), by problem."),
    ] = None


def run(argv: list[str]) -> int:
    """The `entropyctl eval` command."""
    return commands.run("eval", evaluate, argv)


def evaluate(
    sample: Sample,
    watch: Watch,
    inputs: Inputs = None,
    k: Annotated[
        list[str] | None,
        typer.Option(
            "-k",
            metavar="K[,K]...",
            help="Which pass@k and cons@k to report; may be repeated. Default: pass@k for every k up to n, and cons@n.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the counts by problem, as Parquet.")
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT[=FILE]", help="Also write passk-jsonl or lm-eval; to stdout without a file."),
    ] = None,
    log: LogTo = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a policy on scored responses; or, with --policy, --prompts and --reward, sample and score them first.

    pass@k = 1 - C(n - c, k) / C(n, k) for each problem with n responses, c of them correct; mean over problems.
    cons@k: whether the most frequent of k answers is correct, the mean over all subsets of k of the n responses.

    Both are without bias (arXiv 2107.03374). Answers are equal when the grader read the same text; those that tie for
    the majority share it. Responses that could not be graded (unparsable, timeout, error) count as not correct, and
    those without an answer have no vote. Intervals are Student's over problems, and count the noise of the problems
    and of the samples; --json also has those of other samples of the same problems.

    Stopped at any instant, the same command samples only what is missing (with --tee, --history or -o); a larger --n,
    or --add-samples, adds to what is kept, and the numbers are of all responses.

    Every night: `--history DIR --new-only RUN/policy -q` evaluates each published version once, says nothing, and ends
    with 10 and one line where an --alert fires, and with 11 where the same evaluation is being made by another process.

    --against compares problem by problem: the difference of pass@k with a band for all k at once, and how pass rates
    moved. A policy that is better at k = 1 and worse at k = 64 is called so; nothing is ever called equal.
    """
    params = commands.recorded(dict(locals()))
    from entropyctl.errors import ThresholdCrossed
    from entropyctl.evaluation.alerts import parse_rule
    from entropyctl.evaluation.comparison import compared
    from entropyctl.evaluation.export import export as write_export
    from entropyctl.evaluation.export import parse_export
    from entropyctl.evaluation.history import History
    from entropyctl.evaluation.recording import parse_threshold, remember, said_whatever_follows, under
    from entropyctl.laws.summary import summarise
    from entropyctl.loggers import log_evaluation, open_loggers, parse_loggers, run_of

    logging = parse_loggers(log)
    ks, allow = chosen_ks(k), tuple(allow_mismatch or ())
    _check(sample, watch, inputs, output, export, ks)
    rules = [parse_rule(text) for text in watch.alert or []]
    thresholds = [parse_threshold(text) for text in watch.fail_under or []]
    exports = [parse_export(text) for text in export or []]
    history = History(watch.history) if watch.history else None
    other = _other(watch.against, allow) if watch.against else None
    said = output == "-" or any(path is None for _, path in exports)
    crossed: list[str] = []
    run = run_of("eval", sample.policy or sample.new_only or (inputs or ["-"])[0], params)
    asked = [(rule.metric, f"--alert '{rule.text}'") for rule in rules] + [(m, "--fail-under") for m, _ in thresholds]
    with open_loggers(logging, run, quiet) as loggers, said_whatever_follows(crossed):
        for found, record in _evaluations(
            sample, watch, inputs, output, ks, asked, other, allow, history, quiet, params
        ):
            summary = summarise(found.evals, ks)
            log_evaluation(loggers, summary)
            for name, path in exports:
                write_export(name, path, found, summary, record)
            if other:
                summary["comparison"] = compared(found, other, allow)
            below = under(found, thresholds)
            # What can fail has been done: an evaluation in the history is one that nobody makes again.
            crossed += [*(remember(history, found, record, rules) if history else []), *below]
            _report(summary, ks, json, quiet, stdout_is_data=said)
    if crossed:
        raise ThresholdCrossed("; ".join(crossed))


def _check(
    sample: Sample,
    watch: Watch,
    inputs: list[str] | None,
    output: str | None,
    export: list[str] | None,
    ks: list[int],
) -> None:
    """Stop at options that do not go together."""
    import os

    from entropyctl.errors import UsageError

    samples = sample.policy or sample.new_only
    # What says how to compute changes no number, and may stand in a configuration for all evaluations.
    asking = {name: value for name, value in Sample._field_defaults.items() if name not in (*COMPUTING, "dtype")}
    given = [name for name, default in asking.items() if getattr(sample, name) != default]
    if given and not samples:
        flag = "--no-chat" if given[0] == "chat" else f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{flag}: belongs to --policy, which samples first; scored files need none of it")
    of_history = {"--skip-if-done": watch.skip_if_done, "--new-only": sample.new_only, "--alert": watch.alert}
    for flag, chosen in of_history.items():
        if chosen and not watch.history:
            raise UsageError(f"{flag}: needs --history, the directory of earlier evaluations")
    if samples and inputs:
        raise UsageError(f"{inputs[0]}: scored files and --policy exclude each other; give one of them")
    if sample.policy and sample.new_only:
        raise UsageError("--policy and --new-only exclude each other; the latter names the policy itself")
    if sample.new_only and (output or sample.tee or export or sample.add_samples):
        raise UsageError(
            "--new-only evaluates any number of versions; -o, --tee, --export and --add-samples are of one"
        )
    keeps = sample.tee or watch.history
    if samples and not keeps and (highest := max(ks, default=1)) > sample.n:
        raise UsageError(f"-k {highest}: pass@k needs k <= n, and --n is {sample.n}; choose a smaller k or sample more")
    if output is not None and sample.tee is not None and os.path.realpath(output) == os.path.realpath(sample.tee):
        raise UsageError(f"-o and --tee both name {sample.tee}; give them different files, or leave one out")


def _evaluations(
    sample: Sample,
    watch: Watch,
    inputs: list[str] | None,
    output: str | None,
    ks: list[int],
    asked: list[tuple[str, str]],
    other: Evaluation | None,
    allow: tuple[str, ...],
    history: History | None,
    quiet: bool,
    params: dict[str, Any],
) -> Iterator[tuple[Evaluation, Record]]:
    """The evaluation of the files, of the policy, or of each version that the history does not have."""
    from entropyctl.evaluation.evaluation import of_files
    from entropyctl.table import new_record, notice

    announce = (lambda text: None) if quiet else notice
    if sample.policy is None and sample.new_only is None:
        record = new_record("eval", params)
        yield of_files(inputs or ["-"], output, record, ks, allow, announce), record
        return
    from entropyctl.evaluation.sampled import Wanted, of_policy
    from entropyctl.policy import find_policy

    found = find_policy(str(sample.policy or sample.new_only))
    task = _task(sample, announce)
    wanted = Wanted(
        task=task,
        n=sample.n,
        more=sample.add_samples,
        ks=ks,
        against=other,
        allow=allow,
        metrics=asked,
        tee=sample.tee,
        output=output,
        history=history,
        skip=watch.skip_if_done,
        computing=_computing(sample, quiet),
    )
    evaluated = 0
    for policy in [found] if sample.policy else _not_evaluated(found, wanted, announce):
        record = new_record("eval", params)
        yield of_policy(policy, wanted, record, announce), record
        evaluated += 1
    if not evaluated:
        announce(f"eval: {sample.new_only}: every version has been evaluated")


def _not_evaluated(newest: Policy, wanted: Wanted, announce: Callable[[str], None]) -> Iterator[Policy]:
    """The versions of a policy that the history does not have, oldest first; each is looked for when its turn comes."""
    from entropyctl.errors import UsageError
    from entropyctl.policy.versions import find_version, versions_of

    if newest.root is None:
        raise UsageError(
            f"--new-only {newest.directory}: is one checkpoint; name a directory of versions, or use --policy"
        )
    for number, directory in versions_of(newest.root):
        if not directory.exists():
            announce(f"eval: {directory}: has been deleted meanwhile; keep more versions with `update --keep`")
            continue
        policy = find_version(newest.root, number)
        if not (wanted.history and wanted.history.done(wanted.task.key(policy), wanted.n)):
            yield policy


def _task(sample: Sample, announce: Callable[[str], None]) -> Task:
    from entropyctl.engines import Sampling, default_engine
    from entropyctl.evaluation.task import Task
    from entropyctl.prompts import load_prompts

    source = commands.required("--prompts", sample.prompts)
    reward = commands.required("--reward", sample.reward)
    sampling = Sampling(sample.temperature, sample.top_p, sample.top_k, sample.max_tokens, tuple(sample.stop or ()))
    return Task(
        source=source,
        problems=load_prompts(source, columns=commands.pairs("--column", sample.column), announce=announce),
        reward=reward,
        sampling=sampling,
        seed=sample.seed,
        chat=sample.chat,
        engine=sample.engine or default_engine(),
        arguments=commands.pairs("--engine-arg", sample.engine_arg),
        dtype=sample.dtype,
    )


def _computing(sample: Sample, quiet: bool) -> Computing:
    from entropyctl.evaluation.responses import Computing

    own = {name: getattr(sample, name) for name in COMPUTING}
    return Computing(**own, quiet=quiet)


def _other(path: str, allow: tuple[str, ...]) -> Evaluation:
    from entropyctl.evaluation.evaluation import of_files
    from entropyctl.table import new_record

    return of_files([path], None, new_record("eval", {}), None, allow, lambda text: None)


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


def _report(summary: dict[str, Any], ks: list[int], as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    from entropyctl.reporting import report
    from entropyctl.show.console import console
    from entropyctl.show.evaluation import print_comparison, print_evaluation

    if as_json:
        report("eval", summary, as_json=True, quiet=quiet, stdout_is_data=stdout_is_data)
    elif not quiet:
        to = console(to_stderr=stdout_is_data)
        print_evaluation(to, summary, bool(ks))
        if "comparison" in summary:
            print_comparison(to, summary["comparison"], ks)
