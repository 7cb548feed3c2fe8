"""verl: generations that its trainers dumped, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from entropyctl.imports._dump import Dump
from entropyctl.imports._record import Record
from entropyctl.imports._rows import Response
from entropyctl.prompts._problem import as_text, problem_id

USED = ("input", "output", "gts", "step", "acc", "pred")
VERDICTS = {"true": "correct", "1": "correct", "1.0": "correct", "false": "wrong", "0": "wrong", "0.0": "wrong"}


def verl(dump: Dump) -> Iterator[Response]:
    """verl: JSON lines of `trainer.rollout_data_dir` and `trainer.validation_data_dir`.

    Read from the code of verl 0.9.1, of its older trainer and of the one that it calls v1; dumps without `gts`, of
    versions before it, are read too. Texts and scores alone: these dumps have no tokens.

      input   prompt         the prompt as it was decoded, template and all, without special tokens
      output  response
      gts     answer         the ground truth
      score   reward         the sum of the scores of its tokens; `reward` in its place where the dump has that
      acc     outcome        1 is correct, 0 is wrong, and anything else no verdict
      pred    predicted
      step    step
      rest    extra          `uid`, and whatever the reward function gave

    A reward function that returns a dictionary with `score` replaces the sum by it in the dump: a penalty for length,
    for example, is then missing in `score`. Validation has the sum as `reward`.

    prompt_id is a digest of prompt and answer. The v1 trainer's `uid` names a group of one batch, not a problem, which
    has another name in the next epoch and the next validation.

    Args:
        dump: one file, `STEP.jsonl`.
    """
    for record in dump.records():
        prompt, answer = record.text("input"), as_text(record.value.get("gts"))
        if prompt is None:
            raise record.fault("'input' is missing; name a file that verl dumped")
        scored = "reward" if record.value.get("reward") is not None else "score"
        found: Response = {
            "step": record.integer("step"),
            "prompt_id": problem_id(prompt, answer, None),
            "prompt": prompt,
            "answer": answer,
            "response": record.text("output"),
            "reward": _number(record, scored),
        }
        if "acc" in record.value:
            found["outcome"] = verdict(record.value["acc"])
        if "pred" in record.value:
            found["predicted"] = as_text(record.value["pred"])
        yield found | {"extra": record.rest((*USED, scored))}


def verdict(acc: Any) -> str | None:
    """What `acc` says: correct, wrong, or nothing. The older trainer writes numpy's booleans and numbers as text."""
    return VERDICTS.get(str(acc).strip().lower())


def _number(record: Record, name: str) -> float | None:
    value = record.value.get(name)
    if isinstance(value, str):
        try:
            return Record(record.path, record.place, {name: float(value)}).number(name)
        except ValueError:
            pass
    return record.number(name)
