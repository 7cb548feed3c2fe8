"""A process reward model: a token classifier that says after each step how probably it is correct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from entropyctl.errors import EngineError, InputError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.checkpoint import load_classifier, load_tokenizer, parse_device, parse_dtype
from entropyctl.steps._question import Question
from entropyctl.tokenstats.batches import token_batches


@dataclass
class StepModel:
    """A loaded process reward model.

    It reads the problem and the steps, each with one line break behind it, whose token the step is scored at: the form
    in which TRL trains such models by default.
    """

    policy: Policy
    model: Any
    tokenizer: Any
    token_budget: int

    def score(
        self, questions: Sequence[Question], advance: Callable[[int], None] = lambda n: None
    ) -> list[list[float | None]]:
        """For each question p(correct) of each step; None for steps beyond the positions that the model has.

        p = sigmoid(z) for a model with one label, p = softmax(z)[last] for one with two.

        Raises:
            EngineError: the model computes something that is not a number.
        """
        encoded = [self._encode(question) for question in questions]
        scores: list[list[float | None]] = [[] for _ in questions]
        for batch in token_batches([len(ids) for ids, _ in encoded], self.token_budget):
            probability_BT = self._probabilities([encoded[i][0] for i in batch])
            for row, index in enumerate(batch):
                ids, ends = encoded[index]
                scores[index] = [float(probability_BT[row, end]) if end < len(ids) else None for end in ends]
                advance(1)
        return scores

    def _encode(self, question: Question) -> tuple[list[int], list[int]]:
        """Tokens, as many as the model has positions, and where each step ends."""
        newline = self._tokens("\n")
        first = self.tokenizer.bos_token_id
        ids = [*([] if first is None else [first]), *self._tokens(question.problem)]
        ends = []
        for step in question.steps:
            ids += [*self._tokens(step.strip()), *newline]
            ends.append(len(ids) - 1)
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return ids[:longest], ends

    def _tokens(self, text: str) -> list[int]:
        # Special tokens that a model wrote out as text stay text.
        found: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return found

    @torch.inference_mode()
    def _probabilities(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """`[B, T]` p(correct) at each token; rows are padded on the right."""
        width = max(1, *(len(ids) for ids in rows))
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, ids in enumerate(rows):
            ids_BT[row, : len(ids)], mask_BT[row, : len(ids)] = torch.tensor(ids), 1
        device = self.model.device
        logits_BTL = self.model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device)).logits.float().cpu()
        one = logits_BTL.shape[-1] == 1
        probability_BT = logits_BTL[..., 0].sigmoid() if one else logits_BTL.softmax(dim=-1)[..., -1]
        if not probability_BT[mask_BT.bool()].isfinite().all():
            raise EngineError(f"--step-prm {self.policy.directory}: computes what is not a number; try --dtype float32")
        return probability_BT


def open_step_model(path: str, *, dtype: str, device: str, token_budget: int) -> StepModel:
    """Load a process reward model.

    Args:
        path: directory of a token-classification checkpoint with one or two labels.
        dtype: number type of the weights.
        device: where to compute.
        token_budget: most tokens, padding included, in one forward pass.

    Raises:
        InputError: it is no such checkpoint.
    """
    policy = find_policy(path)
    model = load_classifier(policy, parse_dtype(dtype), parse_device(device), "a token-classification checkpoint")
    if model.config.num_labels not in (1, 2):
        labels = model.config.num_labels
        raise InputError(f"{path}: has {labels} labels; a process reward model has one, or two with 'correct' last")
    return StepModel(policy, model, load_tokenizer(policy), token_budget)
