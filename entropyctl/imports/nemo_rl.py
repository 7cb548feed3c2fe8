"""NeMo-RL: training and validation data of its log directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from entropyctl.imports._dump import Dump
from entropyctl.imports._messages import asked, said
from entropyctl.imports._record import Record, under
from entropyctl.imports._rows import Response
from entropyctl.prompts._problem import canonical, problem_id

# Numbers per token, and the columns that they are.
STREAMS = {"generation_logprobs": "rollout_logprobs", "prev_logprobs": "logprobs"}
USED = (
    *("content", "rewards", "filtered_rewards", "input_lengths", "token_ids", "token_loss_mask", "sample_loss_mask"),
    *("advantages", *STREAMS, "idx"),
)


def nemo_rl(dump: Dump) -> Iterator[Response]:
    """NeMo-RL: `train_data_stepN.jsonl` and `val_data_stepN.jsonl` of its log directory.

    Read from the code of its GRPO and PPO loops of September 2026. A line is a batch of one, so that each value stands
    in a list of its own. Training data of earlier versions, which have no tokens, is read as texts and rewards.

      token_ids            prompt_tokens, tokens   up to input_lengths; the response begins at the first token of the
                                                   loss mask
      token_loss_mask      loss_mask               with sample_loss_mask, which takes a whole response out
      generation_logprobs  rollout_logprobs        of the sampler
      prev_logprobs        logprobs                of the trainer, before the update
      advantages           advantages              a number per token, or one for a response
      rewards              reward                  filtered_rewards where dynamic sampling has left some out
      content              prompt, response        where there are two texts, or messages that name their roles
      rest                 extra

    No outcome: --correct-from turns the reward into one. prompt_id is a digest of the prompt's tokens, or of its text
    where there are none. The step is that in the file's name.

    Args:
        dump: one file.
    """
    if dump.step is None:
        raise Record(dump.path, "its name", {}).fault("holds no step; it must be like train_data_step12.jsonl")
    for line in dump.records():
        record = Record(line.path, line.place, _alone(line))
        texts = _texts(record)
        tokens = _tokens(record) if record.value.get("token_ids") is not None else {}
        if "prompt_tokens" in tokens:
            name = problem_id(canonical(tokens["prompt_tokens"].tolist()), None, None)
        elif texts.get("prompt"):
            name = problem_id(texts["prompt"], None, None)
        else:
            raise record.fault(
                "has neither 'token_ids' nor a 'content' of prompt and response; nothing tells them apart"
            )
        reward = "filtered_rewards" if "filtered_rewards" in record.value else "rewards"
        yield {
            "step": dump.step,
            "prompt_id": name,
            **texts,
            **tokens,
            "reward": record.number(reward),
            "extra": record.rest(USED),
        }


def _alone(line: Record) -> dict[str, Any]:
    """The record out of its batch of one."""
    found = {}
    for name, value in line.value.items():
        if isinstance(value, list) and len(value) > 1:
            raise line.fault(f"'{name}' is no batch of one; name a file that NeMo-RL wrote")
        if not isinstance(value, list) or value:  # a list that the batch is longer than ends early
            found[name] = value[0] if isinstance(value, list) else value
    return found


def _texts(record: Record) -> Response:
    """Prompt and response where `content` tells them apart: messages with roles, or one text each."""
    content = record.value.get("content")
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return {
            "prompt": canonical(asked(content, record)),
            "prompt_kind": "messages",
            "response": said(content, record),
        }
    found: Response = dict.fromkeys(("prompt", "prompt_kind", "response"))
    if isinstance(content, list) and len(content) == 2 and all(isinstance(text, str) for text in content):
        found["prompt"], found["response"] = content
    return found


def _tokens(record: Record) -> Response:
    """The columns that have a number for each token."""
    ids_N = record.tokens("token_ids")
    total, length = len(ids_N), record.integer("input_lengths")
    if not 0 <= length <= total:
        raise record.fault(f"'input_lengths' is {length} of {total} tokens; the dump is damaged")
    chosen_N = record.flags("token_loss_mask", total)[:length]
    first = int(chosen_N.argmax()) if chosen_N.any() else length
    place = slice(first, length)
    kept = 1.0 if "sample_loss_mask" not in record.value else record.number("sample_loss_mask")
    mask_T = chosen_N[place] & bool(kept)
    found: Response = {"prompt_tokens": ids_N[:first], "tokens": ids_N[place], "loss_mask": mask_T}
    for name, column in STREAMS.items():
        if name in record.value:
            found[column] = under(record.numbers(name, total)[place], chosen_N[place])
    if "advantages" in record.value:
        per_token = isinstance(record.value["advantages"], list)
        alone = None if per_token else record.number("advantages")
        values_N = record.numbers("advantages", total) if per_token else np.full(total, alone or 0.0)
        found["advantages"] = under(values_N[place], mask_T) if per_token or alone is not None else None
    return found
