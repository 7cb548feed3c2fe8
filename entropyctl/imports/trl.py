"""TRL: completions that its trainers logged, as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from entropyctl.errors import UsageError
from entropyctl.imports._dump import Dump
from entropyctl.imports._messages import said
from entropyctl.imports._record import Record
from entropyctl.imports._rows import Response
from entropyctl.inputs import REWARD_PREFIX
from entropyctl.prompts._problem import canonical, plain, problem_id

FIXED = ("step", "prompt", "completion", "advantage")


def trl(dump: Dump, *, rewards: str | None = None) -> Iterator[Response]:
    """TRL: Parquet files `completions/completions_STEP.parquet` of `log_completions=True`.

    Read from the code of TRL 1.16, GRPOTrainer and RLOOTrainer; earlier ones that write the same columns are read as
    well, and so are the text in which versions before 1.16 keep a conversation. Texts and rewards alone: these files
    have no tokens.

      prompt      prompt      a conversation as JSON, with `prompt_kind` messages
      completion  response    of a conversation what the assistant said, a message to a line
      advantage   advantage   one number for a response, in a column that is not of the contract: without tokens there
                              is nothing to spread it over
      NAME        reward      see --rewards
      rest        extra       what reward functions log

    A column of a reward function and one that a reward function logs look alike. Where only one column holds numbers it
    is the reward; where several do, --rewards must say which are. Where TRL found no number, as where a function
    returned None, there is none here: the reward is the sum over the others, null where there is no other.

    TRL says of no response that it is correct: --correct-from turns the reward into that. prompt_id is a digest of the
    prompt.

    Args:
        dump: one file.
        rewards: reward functions with their weights, NAME[=WEIGHT][,NAME...]; the reward is their weighted sum, and
            with more than one each is a column `reward_NAME`, for `advantage gdpo`.
    """
    weights, records = weights_of(rewards), list(dump.records())
    chosen = weights or _only_reward(dump, records)
    for record in records:
        for name in chosen:
            if name not in record.value or name in FIXED:
                raise record.fault(f"has no column '{name}' of rewards; it has {', '.join(record.value)}")
        prompt = plain(record.value.get("prompt"))
        if not prompt or not isinstance(prompt, str | list):
            raise record.fault("'prompt' is neither a text nor a conversation; name a file that TRL logged")
        found: Response = {
            "step": record.integer("step"),
            "prompt_id": problem_id(prompt, None, None),
            "prompt": prompt if isinstance(prompt, str) else canonical(prompt),
            "prompt_kind": None if isinstance(prompt, str) else "messages",
            "response": _said(record),
            "advantage": record.number("advantage"),
        }
        if chosen:
            values = {name: record.number(name) for name in chosen}
            known = [weight * value for name, weight in chosen.items() if (value := values[name]) is not None]
            found["reward"] = sum(known) if known else None
            found |= {f"{REWARD_PREFIX}{name}": value for name, value in values.items() if len(values) > 1}
        yield found | {"extra": record.rest((*FIXED, *chosen))}


def weights_of(text: str | None) -> dict[str, float]:
    """`"a,b=0.5"` as `{"a": 1.0, "b": 0.5}`.

    Raises:
        UsageError: a weight is no number, or a name is missing.
    """
    found = {}
    for part in text.split(",") if text else ():
        name, _, weight = part.strip().partition("=")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--rewards {text}: must be NAME or NAME=WEIGHT, several with commas")
    return found


def _only_reward(dump: Dump, records: Sequence[Record]) -> dict[str, float]:
    """The one column that can be a reward: whose values are all numbers, or null."""
    names = [name for name in records[0].value if name not in FIXED] if records else []
    numbers = [name for name in names if all(_is_number(record.value.get(name)) for record in records)]
    if len(numbers) > 1:
        dump.announce(f"{', '.join(numbers)} could all be rewards; without --rewards the table has no 'reward'")
    return {name: 1.0 for name in numbers if len(numbers) == 1}


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _said(record: Record) -> str | None:
    completion = record.value.get("completion")
    return said(completion, record) if isinstance(completion, list) else record.text("completion")
