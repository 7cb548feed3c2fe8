"""Grade responses, and compute log p, H, S* and E[S] of every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Device, Dtype, Inputs, Json, OnlyNew, Output, Quiet, Tee

# Steps of responses.
Steps = Annotated[
    bool, typer.Option("--steps", help="Split responses into steps and label them, by --judge, --step-prm or both.")
]
StepsOf = Annotated[
    str, typer.Option(metavar="wrong|all", help="Label the responses that are not graded correct, or all.")
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask a model behind this OpenAI-compatible endpoint, http://HOST:PORT/v1; the key is taken from "
        "ENTROPYCTL_JUDGE_KEY or OPENAI_API_KEY.",
    ),
]
JudgeModel = Annotated[str | None, typer.Option(metavar="NAME", help="The endpoint's name for the model that judges.")]
JudgeTimeout = Annotated[
    float, typer.Option(metavar="S", help="Seconds for one attempt to get a verdict; there are four.")
]
JudgeRequests = Annotated[int, typer.Option(min=1, metavar="N", help="Requests to the judge in flight at once.")]
StepPrm = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Process reward model: a token classifier, p(correct) at the end of each step."),
]
StepThreshold = Annotated[float, typer.Option(metavar="P", help="What p(correct) must be above.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="With --steps: whose tokenizer the responses have; that of --policy by default."),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="End with status 10 where the sampling mismatch of a step has mean, max, k3 or disagreements above, or "
        "ess or sequence_ess below this value; may be repeated.",
    ),
]


def run(argv: list[str]) -> int:
    """The `entropyctl score` command."""
    return commands.run("score", score, argv)


def score(
    inputs: Inputs = None,
    reward: commands.Reward = None,
    reward_as: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Write the grade as reward_NAME alone: one of several rewards, for `advantage gdpo`."
        ),
    ] = None,
    policy: commands.Policy = None,
    at: Annotated[
        Literal["sampled", "latest"],
        typer.Option(
            help="Of --policy as a directory of versions: score with the version that sampled, or the newest."
        ),
    ] = "sampled",
    ref: Annotated[
        str | None, typer.Option(metavar="DIR", help="Reference model: log p of the tokens, as ref_logprobs.")
    ] = None,
    prm: Annotated[
        str | None, typer.Option(metavar="DIR", help="Implicit reward model: log p of the tokens, as prm_logprobs.")
    ] = None,
    critic: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Critic, a token classifier with one label, such as examples/critic_from_policy.py makes: values.",
        ),
    ] = None,
    keep_old: Annotated[
        bool,
        typer.Option("--keep-old", help="With --policy: keep logprobs and entropies as old_logprobs, old_entropies."),
    ] = False,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="With --policy: the K likeliest tokens in each place and their log p."),
    ] = None,
    fail_over: FailOver = None,
    steps: Steps = False,
    steps_of: StepsOf = "wrong",
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_timeout: JudgeTimeout = 120.0,
    judge_requests: JudgeRequests = 16,
    step_prm: StepPrm = None,
    step_threshold: StepThreshold = 0.5,
    tokenizer: Tokenizer = None,
    output: Output = None,
    tee: Tee = None,
    only_new: OnlyNew = False,
    timeout: commands.GraderTimeout = 2.0,
    workers: commands.Workers = None,
    token_budget: commands.TokenBudget = 4096,
    dtype: Dtype = "float32",
    device: Device = "auto",
    runner: commands.Runner = "none",
    actors: commands.Actors = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Grade responses, and compute log p, H, S* and E[S] of every token.

    --reward writes reward, outcome and predicted. --policy writes the statistics of
    p = softmax(logits / temperature), with the temperature that sampled:

    H = -sum_v p_v log p_v        S* = p_k (H + log p_k)        E[S] = H sum p^2 + sum p^2 log p

    Where the table has rollout_logprobs, --policy also says how far sampling and scoring lie apart, on the tokens that
    the policy chose, with x = log p scored - log p sampled: mean and max of |x|; k3 = mean(e^x - 1 - x);
    ess = (sum w)^2 / (N sum w^2) with w = e^x; sequence_ess, the same of whole responses with w = e^(sum x); and
    disagreements, the fraction of tokens to which one side gives p >= 0.5 and the other over 2 nats less. Where
    top-p or top-k truncated the sampling, its log p is of the kept tokens alone: the two differ by construction.

    --fail-over k3=0.01 --fail-over ess=0.9 asks this of each step by itself. In a stream a step that crosses does not
    go on and the stream ends without its end record, so that nothing trains on it; with -o the file is written whole.

    --ref and --prm write log p of the tokens under other models, at the same temperature; --critic the value of the
    state before each token. Any may be left out or run later: `score --ref DIR scored.parquet` adds its column alone.
    Several models in one command are in memory one after another, loaded anew for every step; `score` commands in
    a pipe each keep theirs.

    --steps writes step_labels for bcpg-nsa: the steps of each incorrect response, cut at the ends of lines and
    sentences, and which are correct. With both --judge and --step-prm a step is correct where both say so. A judge that
    refuses, answers nonsense, is late or fails (429, 5xx and silence are asked again) has called no step correct. The
    judge is sent problem, answer and response.

    `--reward python:MODULE:FUNCTION` calls FUNCTION(data_source, solution_str, ground_truth, extra_info), as verl
    does; it returns a number (correct where above 0) or a dict with "score" and perhaps "acc" and "pred".
    """
    params = dict(locals())
    spread = commands.on_ray(runner, actors)
    from contextlib import ExitStack
    from functools import reduce

    from entropyctl.errors import EngineError, one_line
    from entropyctl.policy.mismatch import READS, MismatchWatch, parse_thresholds
    from entropyctl.reporting import report
    from entropyctl.rewards import GRADE_COLUMNS, Grader, GradeSummary, grade_rows
    from entropyctl.table import new_record, notice, read, write
    from entropyctl.table.header import with_facts

    announce = (lambda text: None) if quiet else notice
    grading = reward not in (None, "none")
    models = {"policy": policy, "ref": ref, "prm": prm, "critic": critic}
    scoring = any(path is not None for path in models.values())
    _refuse(
        reward_as=reward_as,
        grading=grading,
        keep_old=keep_old and policy is None,
        top_k=top_k is not None and (policy is None or spread),
        fail_over=bool(fail_over) and policy is None,
        idle=not (grading or scoring or steps),
        idle_runner=spread and not scoring,
        without_steps=() if steps else (judge, judge_model, step_prm, tokenizer),
    )
    needs = [*(["response"] if grading else []), *(["prompt_tokens", "tokens"] if scoring else [])]
    needs += ["logprobs", "entropies"] if keep_old else []
    thresholds = parse_thresholds(fail_over or [])
    needs += ["rollout_logprobs"] if thresholds else []
    needs += ["tokens", *([] if grading or steps_of == "all" else ["outcome"])] if steps else []
    wanted = (
        [*needs, "answer", "data_source", "extra", "prompt", "prompt_tokens", "policy_version", *READS]
        if only_new
        else None
    )
    record = new_record("score", params)
    context: dict[str, Any] = {}
    passes: list[Callable[[Any], Any]] = []  # what is done to the rows of a step, in order
    made: list[str] = []
    scorers: list[Any] = []
    allowed = tuple(allow_mismatch or ())
    opened = read(inputs or ["-"], columns=wanted, needs=needs, allow_mismatch=allowed, overlap=True)
    with opened as source, ExitStack() as stack:
        if grading:
            grader = stack.enter_context(Grader(str(reward), timeout=timeout, workers=workers))
            grades = GradeSummary()
            passes.append(lambda rows: grade_rows(rows, grader, source.path, grades, reward_as))
            made += GRADE_COLUMNS if reward_as is None else [f"reward_{reward_as}"]
        if scoring:
            from entropyctl.policy.scorer import open_scorers
            from entropyctl.policy.spread import open_pool

            pool = open_pool(actors, dtype=dtype, device=device, announce=announce) if spread else None
            if pool is not None:
                stack.callback(pool.close)
            scorers = open_scorers(
                source,
                models,
                dtype=dtype,
                device=device,
                token_budget=token_budget,
                quiet=quiet,
                keep_old=keep_old,
                top_k=top_k,
                at=at,
                pool=pool,
            )
        sampling = source.context.get("sampling", {})
        watch = MismatchWatch(source.path, sampling, thresholds, at_once=output in (None, "-"))
        for scorer in scorers:
            passes += [scorer.score, watch.see] if scorer.role == "policy" else [scorer.score]
            made += scorer.columns
            record[scorer.role] = scorer.policy.digest
            context = with_facts(context, scorer.context())
        if steps:
            from entropyctl.steps.labeller import open_labeller

            labeller, facts = open_labeller(
                source,
                tokenizer or policy,
                judge=judge,
                judge_model=judge_model,
                judge_timeout=judge_timeout,
                judge_requests=judge_requests,
                prm=step_prm,
                threshold=step_threshold,
                which=steps_of,
                dtype=dtype,
                device=device,
                token_budget=token_budget,
                quiet=quiet,
                allow=allowed,
            )
            passes.append(labeller.label)
            made.append("step_labels")
            record |= facts
        only = made if only_new else None
        anew = [name for scorer in scorers for name in scorer.replaces]
        sink = stack.enter_context(
            write(output, "scored", record, source, context=context, replaces=anew, only=only, tee=tee, overlap=True)
        )
        for step in source:
            rows = reduce(lambda rows, one: one(rows), passes, step.rows)
            facts = reduce(with_facts, (scorer.facts(step.number) for scorer in scorers), {})
            sink.put(step.number, rows, facts=facts)
        if grading and sink.rows and grades.outcomes["error"] == sink.rows:
            raise EngineError(f"--reward {reward}: failed on every response; the first: {grader.first_error}")
        summary = {"rows": sink.rows, **(grades.as_dict() if grading else {})}
        for scorer in scorers:
            summary |= scorer.as_dict()
        summary |= watch.as_dict()
        if steps:
            labeller.check()
            summary |= labeller.as_dict()
            if labeller.first_fault:
                announce(f"score: the first judge fault: {labeller.first_fault}")
        sink.summarise(**summary)
        if grading and grader.first_error:
            announce(f"score: the first grading error: {one_line(grader.first_error)}")
        if (line := watch.line()) and not json:
            announce(f"score: {line}")
    report("score", summary, as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
    watch.check()


STEP_FLAGS = ("--judge", "--judge-model", "--step-prm", "--tokenizer")


def _refuse(
    *,
    reward_as: str | None,
    grading: bool,
    keep_old: bool,
    top_k: bool,
    fail_over: bool,
    idle: bool,
    idle_runner: bool,
    without_steps: tuple[str | None, ...],
) -> None:
    """Refuse flags that would do nothing.

    Args:
        reward_as: value of --reward-as.
        grading: a grader is named.
        keep_old: --keep-old stands without --policy.
        top_k: --top-k stands without --policy, or with --runner ray.
        fail_over: so does --fail-over.
        idle: nothing at all is asked for.
        idle_runner: --runner ray has no model to run.
        without_steps: values of STEP_FLAGS where --steps is not given.
    """
    import re

    from entropyctl.errors import UsageError

    if idle_flag := next(
        (flag for flag, value in zip(STEP_FLAGS, without_steps, strict=False) if value is not None), None
    ):
        raise UsageError(f"{idle_flag} belongs to --steps; give that too")
    if reward_as is not None and (not grading or not re.fullmatch(r"[a-z0-9_]+", reward_as)):
        raise UsageError(f"--reward-as {reward_as}: must be small letters, digits and _, beside --reward")
    if idle:
        raise UsageError(
            "nothing to do; give --reward to grade, --policy to compute token statistics, or both (or --ref, --prm, "
            "--critic, --steps)"
        )
    if idle_runner:
        raise UsageError("--runner ray: belongs to --policy, --ref, --prm or --critic, whose models it runs")
    if keep_old:
        raise UsageError("--keep-old: belongs to --policy, which replaces the log-probabilities and entropies")
    if top_k:
        raise UsageError("--top-k: belongs to --policy, whose likeliest tokens they are, and to --runner none")
    if fail_over:
        raise UsageError("--fail-over: belongs to --policy, whose log-probabilities are compared with the sampled ones")
