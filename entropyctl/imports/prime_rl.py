"""prime-rl: token exports of its trainer, and traces of its orchestrator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from entropyctl.dynamics import s_star
from entropyctl.imports._dump import Dump
from entropyctl.imports._prime_rl_traces import read_annotations, trace_responses
from entropyctl.imports._record import Array, Record, under
from entropyctl.imports._rows import Response
from entropyctl.prompts._problem import canonical, problem_id

STREAMS = {"inference_logprobs": "rollout_logprobs", "trainer_logprobs": "logprobs", "entropy": "entropies"}


def prime_rl(dump: Dump) -> Iterator[Response]:
    """prime-rl: `token_exports/step_N/rank_R.jsonl` and `traces.jsonl`.

    Read from the code of prime-rl of May to September 2026: token exports of schema 1, which `enable_token_export`
    wrote until the end of August; and traces, or the episodes that hold them, of verifiers 0.4, in
    `rollouts/step_N/.../traces.jsonl` and later in `traces/step_N/{train,eval}/traces.jsonl`, with what the
    orchestrator and the trainer add in `annotations/` beside them. Sealed traces (.chunks) are not read.

      token export         trace
      token_ids            nodes' token_ids        prompt_tokens, tokens: the response begins at the first that counts
      loss_mask            nodes' mask             loss_mask
      inference_logprobs   nodes' logprobs         rollout_logprobs; traces keep four decimals
      trainer_logprobs     trainer_logprobs        logprobs
      entropy              entropies               entropies
                                                   s_star, which follows from the two before: p (H + log p)
      advantages           advantages              advantages
      rewards              rewards                 reward: that of a trace is the sum of weight x score
      env_name             env                     data_source
                           messages                prompt, response
                           calls                   finish_reason: stop or length
                           run.work.policy         policy_version, where one version made the whole episode
                           task.data.answer        answer
      export_step, or step_N in the path           step

    E[S] does not follow from them, so that what needs it (`forecast`) wants `score --policy` first. A row is what
    prime-rl trains as one sequence: an export's record, or a branch of a trace; traces of agents that are not trained
    are left out. No outcome: --correct-from turns the reward into one. prompt_id is the task's key, in exports a digest
    of the prompt's tokens.

    Args:
        dump: one file; those of `annotations/` are read with the traces that they belong to.
    """
    if "/annotations/" in f"/{dump.path}":
        return
    learnt = read_annotations(dump)
    for record in dump.records():
        responses = [_exported(record)] if "token_ids" in record.value else trace_responses(dump, record, learnt)
        yield from map(_with_s_star, responses)


def _exported(record: Record) -> Response:
    ids_N = record.tokens("token_ids")
    total = len(ids_N)
    chosen_N = record.flags("loss_mask", total)
    first = int(chosen_N.argmax()) if chosen_N.any() else total
    mask_T = chosen_N[first:]
    found: Response = {
        "step": record.integer("export_step" if record.value.get("export_step") is not None else "step"),
        "prompt_id": problem_id(canonical(ids_N[:first].tolist()), None, None),
        "data_source": record.text("env_name"),
        "prompt_tokens": ids_N[:first],
        "tokens": ids_N[first:],
        "loss_mask": mask_T,
        "reward": _shared(record.numbers("rewards", total)[chosen_N]) if "rewards" in record.value else None,
        "advantages": under(record.numbers("advantages", total)[first:], mask_T),
    }
    for name, column in STREAMS.items():
        found[column] = under(record.numbers(name, total)[first:], mask_T)
    return found


def _shared(values_N: Array) -> float | None:
    """A number that every token repeats."""
    known = np.unique(values_N[np.isfinite(values_N)])
    return float(known[0]) if len(known) == 1 and np.isfinite(values_N).all() else None


def _with_s_star(found: Response) -> Response:
    """The response with S*, where log p and H are known."""
    logprobs_T, entropies_T = found["logprobs"], found["entropies"]
    known = logprobs_T is not None and entropies_T is not None
    return found | {"s_star": s_star(logprobs_T, entropies_T) if known else None}
