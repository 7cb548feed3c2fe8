"""From a stage's function to its command: shared flags, configuration, messages and exit codes.

Imports typer and nothing heavier; a stage's function imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import importlib.util
import inspect
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal, get_type_hints

import typer

from entropyctl.configuration import defaults_of
from entropyctl.ending import Ended, ReaderGone, WriterGone, end_on_signals
from entropyctl.errors import (
    EntropyctlError,
    OutputError,
    ResourceError,
    StreamEndedEarly,
    UsageError,
    one_line,
)
from entropyctl.reporting import is_silent, mute, silence

# Flags that stages share, declared once.
Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT]...",
        help="Files, directories or globs, laid over one another by key; '-' or nothing reads a stream from stdin.",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Parquet file to write; without it, a stream to stdout."),
]
Tee = Annotated[str | None, typer.Option(metavar="FILE", help="Also keep a Parquet file while streaming on.")]
OnlyNew = Annotated[
    bool, typer.Option("--only-new", help="Write the key and the columns that this stage made, no others.")
]
AllowMismatch = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        help="Accept inputs that disagree on this field or group of fields (sampling.temperature, policies, ...); "
        "may be repeated, and is recorded.",
    ),
]
StateFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="JSON file with what the method remembers after each step; without it, for this run alone. "
        "Running a step again starts from the state before it.",
    ),
]
History = Annotated[
    str | None,
    typer.Option(metavar="METRICS", help="Metrics of earlier steps (`update --metrics`), to calibrate the step size."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the summary as one JSON object, on stderr when stdout is data.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Policy = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Checkpoint directory, or a directory of versions with `latest`."),
]
Dtype = Annotated[str, typer.Option(metavar="float32|bfloat16", help="Number type of the weights while computing.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where the model computes.")]
TokenBudget = Annotated[
    int, typer.Option(min=1, metavar="N", help="Most tokens, padding included, in one forward pass.")
]
Runner = Annotated[
    Literal["none", "ray"],
    typer.Option(help="Where models run: in this process, or on actors of the Ray cluster at RAY_ADDRESS, else here."),
]
Actors = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="With --runner ray; by default one on each free GPU, or on each machine."),
]

Prompts = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="JSON lines, Parquet, hf:OWNER/NAME?split=S, or gym:NAME?key=value."),
]
Column = Annotated[
    list[str] | None,
    typer.Option(metavar="ROLE=NAME", help="Which input column is the prompt, answer, data_source or prompt_id."),
]
Chat = Annotated[bool, typer.Option(help="Put plain prompts into the tokenizer's chat template, if it has one.")]
Temperature = Annotated[float, typer.Option(metavar="T", help="What logits are divided by; above 0.")]
TopP = Annotated[float, typer.Option(metavar="P", help="Draw from the smallest set of this probability.")]
TopK = Annotated[int, typer.Option(metavar="K", help="Draw from the K most probable tokens; 0 is all.")]
MaxTokens = Annotated[int, typer.Option(metavar="N", help="Longest response.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End a response at this text; may be repeated.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the order of the prompts and of the sampling.")]
BatchRows = Annotated[int, typer.Option(min=1, metavar="N", help="Responses that are sampled side by side.")]
Reward = Annotated[
    str | None, typer.Option(metavar="NAME", help="Grader: exact, math, gym, python:MODULE:FUNCTION or none.")
]
GraderTimeout = Annotated[
    float, typer.Option("--timeout", metavar="S", help="Seconds that grading one response may take.")
]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Grading processes; one per core when not given.")]

Reduction = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="token-mean, token-sum, seq-mean-token-sum, seq-mean-token-mean, seq-mean-token-sum-norm (Dr.GRPO) "
        "or token-sum-norm (the same without the mean over responses, as Trinity-RFT has it, and verl until 0.6.1); "
        "by default what the objective's authors use.",
    ),
]
Norm = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Constant of the two -norm: the longest possible response; by default the longest there is."
    ),
]
AllRows = Annotated[
    bool,
    typer.Option(
        "--all-rows",
        help="Let means over responses count those that lost all their tokens too, as verl's trainer, TRL and "
        "Trinity-RFT do.",
    ),
]
_KL_KINDS = "k1|k2|k3|abs[+]"
Kl = Annotated[
    str,
    typer.Option(metavar=_KL_KINDS, help="Estimator of the KL that a mask asks for; with + it has the gradient of k2."),
]
KlCoef = Annotated[
    float, typer.Option(metavar="X", help="Its coefficient on every token, beside what the mask asks for.")
]
KlTo = Annotated[
    Literal["old", "ref"],
    typer.Option(help="What it is taken against: the policy that the step started from, or `score --ref`'s."),
]
RefKl = Annotated[str, typer.Option(metavar=_KL_KINDS, help="Estimator of the KL to the reference policy.")]
RefKlCoef = Annotated[
    float, typer.Option(metavar="X", help="Its coefficient on every token; above 0 it needs `score --ref`.")
]

EPILOG = "An option that is not given is read from {prefix}_OPTION, then from --config (or ENTROPYCTL_CONFIG)."

# Which extra brings a package that the core does without.
EXTRAS = {
    "torch": "model",
    "transformers": "model",
    "safetensors": "model",
    "math_verify": "math",
    "reasoning_gym": "gym",
    "datasets": "hub",
    "vllm": "vllm",
    "peft": "lora",
    "sympy": "derive",
    "plotly": "report",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "mlflow": "mlflow",
}

SPEAKING_SECONDS = 2.0

_Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file with defaults: a table for each stage, its options as keys."
    ),
]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def run(stage: str, function: Callable[..., object], argv: list[str]) -> int:
    """Run a stage's function as a command and turn what happens into an exit status.

    Options come from the flag, then `ENTROPYCTL_<STAGE>_<OPTION>`, then the `[stage]` table of `--config`,
    then the function's default.
    """
    end_on_signals()
    _share_the_cores()
    debug = "--debug" in argv
    try:
        prefix = f"ENTROPYCTL_{stage}".upper().replace("-", "_").replace(" ", "_").replace("+", "P").replace("@", "_")
        command = typer.main.get_command(_app(function, EPILOG.format(prefix=prefix)))
        defaults = defaults_of(stage, argv, {p.name for p in command.params if p.name})
        result = command.main(
            args=argv,
            prog_name=f"entropyctl {stage}",
            standalone_mode=False,
            auto_envvar_prefix=prefix,
            default_map=defaults,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (BrokenPipeError, ReaderGone):
        return _reader_has_enough()
    except WriterGone:  # while the input was being closed
        died = StreamEndedEarly("standard input: the stage before this one died; see its message")
        return _report(stage, died, debug)
    except SystemExit as ended:
        # How typer reports a closed pipe that it meets itself.
        if isinstance(ended.__context__, BrokenPipeError):
            return _reader_has_enough()
        raise
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Ended as ended:
        return 128 + ended.signal
    except Exception as error:
        return _report(stage, error, debug)


def as_one(run: Callable[[], int]) -> int:
    """Run a command that torchrun may have started many times over: the first process speaks for all.

    Args:
        run: the command; it may let another process speak, for a fault that it has alone.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return run()
    if os.environ.get("RANK", "0") != "0":
        silence()
    status = run()
    if status and is_silent():
        # torchrun ends all as soon as one has ended: it must not be before the one that speaks has spoken.
        with suppress(BaseException):
            time.sleep(SPEAKING_SECONDS)
    return status


def _reader_has_enough() -> int:
    # What was read is what this process was for: a table that is streamed, help, a view. A report is none (`report`).
    mute(sys.stdout)
    return 0


def required(flag: str, value: str | None) -> str:
    """The value of a flag that must be given.

    Raises:
        UsageError: it was not.
    """
    if value is None:
        raise UsageError(f"{flag} is missing; give it a value")
    return value


def on_ray(runner: str, actors: int | None) -> bool:
    """Whether --runner asks for Ray; does not import it.

    Raises:
        UsageError: there are --actors without it, or it is not installed.
    """
    if actors is not None and runner != "ray":
        raise UsageError(f"--actors {actors}: belongs to --runner ray; give that too")
    if runner == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError("--runner ray: needs ray, which is not installed; run pip install 'entropyctl[ray]'")
    return runner == "ray"


def pairs(flag: str, values: list[str] | None) -> dict[str, str]:
    """`["a=b"]` as `{"a": "b"}`.

    Raises:
        UsageError: one of them has no `=`.
    """
    for value in values or []:
        if "=" not in value:
            raise UsageError(f"{flag} {value}: must be NAME=VALUE")
    return dict(value.split("=", 1) for value in values or [])


def recorded(options: dict[str, Any]) -> dict[str, Any]:
    """What a stage was told, for its record of provenance: its options by name, groups taken apart.

    Args:
        options: the stage's arguments.
    """
    own = {name: value for name, value in options.items() if name not in ("function", "method", "params")}
    groups = {name: value._asdict() for name, value in own.items() if hasattr(value, "_asdict")}
    apart = {name: value for group in groups.values() for name, value in group.items()}
    return {name: value for name, value in own.items() if name not in groups} | apart


def _report(stage: str, error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        error = ResourceError("out of memory; lower --token-budget or the batch, or use a smaller step")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = OutputError("standard output: the disk is full; free some space")
    if isinstance(error, EntropyctlError):
        message, code = str(error), error.exit_code
    elif hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of typer's
        message, code = f"{_usage_message(error)}; see `entropyctl {stage} --help`", 2
    elif type(error).__name__ == "Abort" and isinstance(error.__cause__, KeyboardInterrupt):
        message, code = "interrupted", 130
    elif isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        message = f"needs {error.name}, which is not installed; run pip install 'entropyctl[{EXTRAS[error.name]}]'"
        code = 2
    else:
        message = f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"
        code = 1
    print(f"entropyctl {stage}: {one_line(message)}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # what it still holds is what could not be written
        mute(sys.stdout)
    return code


def _usage_message(error: Any) -> str:
    message: str = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        known = sorted({o for p in context.command.params for o in p.opts if o.startswith("--")} | {"--help"})
        message = f"{message}; known: {', '.join(known)}"
    return message


def _app(function: Callable[..., object], epilog: str) -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help=as_help(inspect.getdoc(function) or ""), epilog=epilog)(_with_common_flags(function))
    return app


def as_help(doc: str) -> str:
    """A docstring for the terminal: paragraphs keep their line breaks, and the Args section is left to the flags."""
    body = doc.partition("\nArgs:")[0].rstrip()
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in body.split("\n\n"))


def _with_common_flags(function: Callable[..., object]) -> Callable[..., object]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    params, groups = [], {}
    for param in inspect.signature(function, eval_str=True).parameters.values():
        if hasattr(param.annotation, "_fields"):
            groups[param.name] = param.annotation
            params += _options_of(param.annotation)
        else:
            params.append(param.replace(kind=keyword))
    params.append(inspect.Parameter("config", keyword, default=None, annotation=_Config))
    params.append(inspect.Parameter("debug", keyword, default=False, annotation=_Debug))
    for param in params:
        for option in getattr(param.annotation, "__metadata__", ()):
            option.show_envvar = False  # every option has one; the epilog says so once

    def command(**options: Any) -> object:
        options.pop("config"), options.pop("debug")
        for name, group in groups.items():
            options[name] = group(**{field: options.pop(field) for field in group._fields})
        return function(**options)

    command.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in params}
    return command


def _options_of(group: Any) -> list[inspect.Parameter]:
    """The fields of a group of flags (a NamedTuple) as parameters."""
    hints, keyword = get_type_hints(group, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    defaults = group._field_defaults
    return [inspect.Parameter(n, keyword, default=defaults[n], annotation=hints[n]) for n in group._fields]


def _share_the_cores() -> None:
    """Let idle threads of OpenMP and OpenBLAS sleep; must run before torch and numpy are imported.

    Stages of a pipe share the cores, and a thread that spins while it waits takes them from its neighbours: generation
    beside one busy process was measured at 6 tokens/s with spinning threads and at 21 with sleeping ones. The first
    wait of OpenBLAS, when numpy is imported, would take 0.07 s of every process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # they wait for 2^4 cycles and not for 2^26
