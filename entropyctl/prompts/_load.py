"""From the name of a source to its problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from entropyctl.errors import InputError, UsageError
from entropyctl.prompts import files, gym, hub
from entropyctl.prompts._forms import recognise
from entropyctl.prompts._problem import Problem, with_unique_ids


def load_prompts(
    source: str, *, columns: Mapping[str, str] | None = None, announce: Callable[[str], None]
) -> list[Problem]:
    """All problems of a source.

    Args:
        source: a file, directory or glob of JSON lines or Parquet; a directory that `save_to_disk` wrote;
            `hf:OWNER/NAME?split=train`; or generated tasks, `gym:NAME?key=value&...`.
        columns: which input column to take for `prompt`, `answer`, `data_source` or `prompt_id`, in place of what
            is recognised; a dot reaches into a struct (`reward_model.ground_truth`).
        announce: told in one line what was found.

    Raises:
        UsageError: the source or a column does not exist, or it is ambiguous which column is meant.
        InputError: the data is damaged, or holds no prompts.
    """
    if source.startswith(gym.SCHEME):
        if columns:
            raise UsageError(f"{source}: generated tasks have no columns; leave --column out")
        problems, text = gym.generate(source)
    else:
        rows = hub.rows(source) if hub.is_dataset(source) else files.rows(source)
        if not rows:
            raise InputError(f"{source}: holds no rows; name a file with prompts")
        form = recognise(rows, source, columns or {})
        problems = [form.problem(row, f"{source}: row {number}") for number, row in enumerate(rows, start=1)]
        text = form.description
    unanswered = sum(problem.answer is None for problem in problems)
    answers = f", {unanswered} of them without an answer" if unanswered else ""
    announce(f"{source}: {len(problems)} problems{answers}; {text}")
    return with_unique_ids(problems)
