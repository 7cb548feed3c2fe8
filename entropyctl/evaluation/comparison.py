"""An evaluation compared with another, and whether it can be, before anything is sampled for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entropyctl.evaluation.evaluation import Evaluation
from entropyctl.laws.comparison import compare, nothing_in_common
from entropyctl.table.header import merge_contexts

if TYPE_CHECKING:
    from entropyctl.evaluation.task import Task
    from entropyctl.policy import Policy


def compared(
    found: Evaluation,
    other: Evaluation,
    allow: tuple[str, ...] = (),
    names: tuple[str, str] = ("the other", "this policy"),
) -> dict[str, Any]:
    """The comparison of two evaluations that were sampled and graded in one way.

    Args:
        found: the one that is compared.
        other: what it is compared with.
        allow: fields in which they may differ.
        names: of the other and of the one, in the verdict.

    Raises:
        MismatchError: they were not.
        InputError: they have no problem in common.
    """
    check_alike(found, other, allow)
    return compare(found.evals, other.evals, path=found.path, against=other.path, names=names)


def check_alike(found: Evaluation, other: Evaluation, allow: tuple[str, ...] = ()) -> None:
    """Stop where two evaluations were not sampled and graded in one way.

    Raises:
        MismatchError: they were not.
    """
    asked = [(one.path, {"sampling": one.context.get("sampling", {}), **_grading(one)}) for one in (found, other)]
    merge_contexts(asked, allow, "compare evaluations of one kind")


def check_comparable(task: Task, policy: Policy, other: Evaluation, allow: tuple[str, ...] = ()) -> None:
    """Stop where no comparison can come out of a task, before anything is sampled.

    Args:
        task: that will be evaluated.
        policy: of it.
        other: the evaluation that it shall be compared with.
        allow: fields in which they may differ.

    Raises:
        MismatchError: the other was sampled or graded in another way.
        InputError: they have no problem in common.
    """
    origin = task.origin(policy)
    nothing = other.evals.slice(0, 0)
    check_alike(Evaluation(nothing, task.source, origin["context"], [], [], {"task": task.facts}), other, allow)
    if not {problem.prompt_id for problem in task.problems} & set(other.evals["prompt_id"].to_pylist()):
        raise nothing_in_common(task.source, other.path)


def _grading(found: Evaluation) -> dict[str, Any]:
    """Who graded, as far as the records say."""
    own = found.facts.get("task", {}).get("reward")
    rewards = [record.get("params", {}).get("reward") for record in found.chain]
    known = [reward for reward in [*rewards, own] if reward is not None]
    return {"grading": {"reward": known[-1]}} if known else {}
