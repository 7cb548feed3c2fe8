"""Sample responses to prompts with a policy."""

from __future__ import annotations

from typing import Annotated

import typer

from entropyctl import commands
from entropyctl.commands import Device, Dtype, Json, Output, Quiet, Tee


def run(argv: list[str]) -> int:
    """The `entropyctl rollout` command."""
    return commands.run("rollout", rollout, argv)


def rollout(
    policy: commands.Policy = None,
    prompts: commands.Prompts = None,
    output: Output = None,
    tee: Tee = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="One part of each step's prompts, I from 0 to N - 1, or auto (torchrun, Slurm array); "
            "-o is then the directory of the parts.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, metavar="N", help="Responses to each prompt.")] = 8,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Number of the first training step: 1, or with --max-lag the one after the last trained."
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="How many steps to sample; with --max-lag and no --step, up to which."),
    ] = 1,
    max_lag: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="L",
            help="Stay, and take up the versions that `update --publish` makes of these steps: "
            "never more than L behind the training.",
        ),
    ] = None,
    prompts_per_step: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            help="Prompts of a step, taken in an order that the seed fixes, epoch after epoch; without it, all.",
        ),
    ] = None,
    temperature: commands.Temperature = 1.0,
    top_p: commands.TopP = 1.0,
    top_k: commands.TopK = 0,
    max_tokens: commands.MaxTokens = 512,
    stop: commands.Stop = None,
    seed: commands.Seed = 0,
    chat: commands.Chat = True,
    column: commands.Column = None,
    greedy_baseline: Annotated[
        bool,
        typer.Option("--greedy-baseline", help="One more response to each prompt, greedy, as ReMax compares with."),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What generates: vllm (where it is installed, the default), server (with --url) or transformers.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Of a vLLM server (`entropyctl serve`): http://127.0.0.1:8000."),
    ] = None,
    engine_arg: Annotated[
        list[str] | None, typer.Option("--engine-arg", metavar="NAME=VALUE", help="An argument of vLLM's; repeatable.")
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Responses that are sampled side by side; the engine's own.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    runner: commands.Runner = "none",
    actors: commands.Actors = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sample responses to prompts with a policy.

    Log-probabilities are stored of the distribution that sampled: softmax(logits / temperature), after top-k and
    top-p. A response's random numbers depend on (seed, step, prompt_id, sample) alone: the same command samples the
    same responses, in any order of prompts and with any --batch-rows, up to the order of floating-point sums (log
    probabilities moved by at most 2.4e-5 between 64 and 7 rows on a 135M model in float32).

    --greedy-baseline adds a row of the most probable tokens (column `greedy`; its log-probabilities are of the same
    distribution as the others'; nothing trains on it), and leaves the other rows as they are.

    vLLM draws its own random numbers, from a seed per response out of the same key; its samples are the same again on
    the same machine with the same --batch-rows. tensor_parallel_size and the like go through --engine-arg.

    --engine server asks a vLLM server (which must hold --policy, or load it), so many requests at a time as
    `--engine-arg requests=64` says; what gets no answer within timeout=600 seconds or meets a server that is being
    started again is asked retries=8 times more, with doubled waits.

    With --max-lag L this is the beginning of a loop that runs as one pipe: step K waits until the steps up to K - 1 - L
    have made their versions, and is sampled with the newest. L = 0 is strictly on-policy; L = 1 samples a step
    while the one before it is trained. The same command goes on where an interrupted loop stopped, up to step --steps.

    An interrupted rollout to a file goes on when the same command runs again: finished responses are kept beside it
    (`.NAME.*.part`) until it is whole, and are not sampled again.

    Prompts come from JSON lines, Parquet, a Hugging Face dataset (`hf:OWNER/NAME`, or a directory that
    `save_to_disk` wrote), or are generated: `gym:NAME?key=value` (reasoning-gym; `shots=4` makes few-shot prompts).
    """
    params = dict(locals())
    spread = commands.on_ray(runner, actors)
    from contextlib import ExitStack, closing

    from entropyctl.engines import Journal, Sampling, default_engine, has_room_beside, rollout_context, rollout_step
    from entropyctl.policy import find_policy
    from entropyctl.policy.holding import held
    from entropyctl.policy.waiting import check_somebody_reads, resident_steps, version_for_step
    from entropyctl.prompts import load_prompts, parse_shard, prompts_digest, step_prompts
    from entropyctl.registry import load_function
    from entropyctl.reporting import report
    from entropyctl.table import new_record, notice, write
    from entropyctl.table.activity import at_the_front
    from entropyctl.table.columns import count_tokens

    announce = (lambda text: None) if quiet else notice
    sampling = Sampling(temperature, top_p, top_k, max_tokens, tuple(stop or ()))
    source = commands.required("--prompts", prompts)
    found = find_policy(commands.required("--policy", policy))
    if max_lag is not None:
        check_somebody_reads(output)
    numbers = resident_steps(found, step, steps, max_lag)
    version_for = version_for_step(found, numbers, max_lag)
    problems = load_prompts(source, columns=commands.pairs("--column", column), announce=announce)
    chosen = [step_prompts(problems, k, prompts_per_step, seed) for k in numbers]
    if shard is not None:
        mine = parse_shard(shard)
        chosen = [mine.part(part) for part in chosen]
        output = _file_in(output, mine.file_name)
        params["shard"] = str(mine)
    if not chosen:
        announce(f"rollout: all {steps} steps have been trained")
    arguments = commands.pairs("--engine-arg", engine_arg)
    if url is not None:
        engine, arguments["url"] = engine or "server", url
    if engine is None:
        engine = default_engine()
        announce(f"rollout: --engine {engine}")
    make_engine = load_function("engines", engine)
    if spread:
        from entropyctl.engines._ray import over_ray

        make_engine = over_ray(engine, actors, announce)
    if sampling.truncates:
        announce("rollout: top-k and top-p leave tokens out, so log-probabilities will not match those of `score`")
    record = new_record("rollout", params | {"step": numbers.start}, policy=found.digest, seed=seed)
    streamed = found.root if output in (None, "-") else None
    activity = at_the_front(streamed, record, numbers[-1] if numbers else None, begins=max_lag is not None)
    context = rollout_context(found, sampling)
    inputs = [{"path": source, "digest": prompts_digest(problems)}]
    asked = {name: value for name, value in arguments.items() if name != "url"}
    journaled = (found.digest, sampling, seed, engine, dtype, asked)
    journal = Journal(str(output), journaled) if has_room_beside(output) else None
    if journal is not None and len(journal):
        announce(f"rollout: goes on after {len(journal)} finished responses in {journal.path}")
    totals = {"rows": 0, "tokens": 0, "truncated": 0}
    with (
        activity,
        write(output, "rollouts", record, context=context, tee=tee, inputs=inputs, activity=activity) as sink,
        ExitStack() as stack,
    ):
        with held(found):
            ready = stack.enter_context(
                closing(make_engine(found, dtype=dtype, device=device, batch_rows=batch_rows, arguments=arguments))
            )
        for k, part in zip(numbers, chosen, strict=True):
            newest = version_for(k, activity)
            if newest != found:
                activity.doing("loads", version=newest.version)
                with held(newest):
                    ready.load(newest)
                found = newest
            activity.version = found.version
            activity.doing("computes", step=k)
            rows = rollout_step(
                part,
                ready.sample if journal is None else journal.sampler(ready.sample, k),
                ready.tokenizer,
                sampling,
                step=k,
                n=n,
                seed=seed,
                policy_version=found.version,
                chat=chat,
                greedy_baseline=greedy_baseline,
            )
            sink.put(k, rows, facts={"policies": {str(found.version): found.digest}})
            tokens = count_tokens(rows)
            activity.finished(tokens)
            totals["rows"] += rows.num_rows
            totals["tokens"] += tokens
            totals["truncated"] += rows["finish_reason"].to_pylist().count("length")
        sink.summarise(**totals)
    if journal is not None:
        journal.remove()
    report("rollout", totals, as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))


def _file_in(directory: str | None, name: str) -> str | None:
    """A shard's file in the directory that -o names; a stream stays one."""
    from entropyctl.table.atomic import make_directory

    if directory in (None, "-"):
        return directory
    make_directory(str(directory))
    return f"{directory}/{name}"
