"""Labelling the steps of a table's responses, with a judge, a process reward model, or both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from entropyctl.errors import EngineError, UsageError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.checkpoint import load_tokenizer
from entropyctl.policy.scorer import check_tokenizer
from entropyctl.policy.versions import LATEST
from entropyctl.progress import progress
from entropyctl.steps._question import FAILURES, INSTRUCTIONS, OUTCOMES, Answer, Question
from entropyctl.steps.judge import Judge, open_judge
from entropyctl.steps.labels import StepLabel, labels_column, step_label
from entropyctl.steps.prm import StepModel, open_step_model
from entropyctl.steps.split import Decode, split_steps, token_texts
from entropyctl.table import Source, check_needs, notice
from entropyctl.table.columns import with_column

Span = tuple[int, int]
# Pairs of neighbouring tokens whose text is remembered; most pairs of a response occur in others too.
REMEMBERED = 1 << 17
COUNTED = (
    *("step_responses", "steps", "step_tokens", "steps_beyond_prm"),
    *("tokens_correct_judge_only", "tokens_correct_prm_only", "tokens_correct_both"),
)


@dataclass
class Labeller:
    """Splits and labels responses, step by step of a table, and counts what came of it."""

    decode: Decode
    judge: Judge | None
    prm: StepModel | None
    threshold: float
    which: str
    quiet: bool
    counts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    first_fault: str | None = None

    def label(self, rows: pa.Table) -> pa.Table:
        """The rows of a step with `step_labels`; null where a response is not labelled.

        Args:
            rows: with `tokens`, with `prompt` or `prompt_tokens`, with `outcome` where only incorrect responses are
                labelled, and with `answer` where it is known.

        Raises:
            EngineError: the process reward model failed, or the judge so often that it was given up.
        """
        outcomes = rows["outcome"].to_pylist() if self.which == "wrong" else [None] * rows.num_rows
        chosen = [row for row, outcome in enumerate(outcomes) if outcome != "correct"]
        spans, questions = self._questions(rows.take(pa.array(chosen, pa.int64())))
        labels: list[list[StepLabel] | None] = [None] * rows.num_rows
        for row, found in zip(chosen, self._labels(spans, questions), strict=True):
            labels[row] = found
            self._count(found)
        return with_column(rows, "step_labels", labels_column(labels))

    def check(self) -> None:
        """Stop where the judge gave not one verdict, which is no result.

        Raises:
            EngineError: says why the first failed.
        """
        if self.outcomes and set(self.outcomes) <= set(FAILURES):
            raise EngineError(f"--judge: failed on every response; the first: {self.first_fault}")

    def as_dict(self) -> dict[str, int]:
        """Responses, steps and tokens labelled so far; what the judge did, and who called how many tokens correct."""
        judged = {f"judge_{name}": self.outcomes[name] for name in OUTCOMES if self.outcomes[name]}
        return {name: self.counts[name] for name in COUNTED} | judged

    def _questions(self, rows: pa.Table) -> tuple[list[list[Span]], list[Question]]:
        answers = rows["answer"].to_pylist() if "answer" in rows.column_names else [None] * rows.num_rows
        spans, questions = [], []
        for ids, problem, answer in zip(rows["tokens"].to_pylist(), self._problems(rows), answers, strict=True):
            texts = token_texts(ids, self.decode)
            spans.append(split_steps(texts))
            questions.append(Question(problem, tuple("".join(texts[a:b]) for a, b in spans[-1]), answer))
        return spans, questions

    def _problems(self, rows: pa.Table) -> list[str]:
        if "prompt" in rows.column_names:
            return [_said(prompt or "") for prompt in rows["prompt"].to_pylist()]
        return [self.decode(ids or []) for ids in rows["prompt_tokens"].to_pylist()]

    def _labels(self, spans: Sequence[list[Span]], questions: Sequence[Question]) -> list[list[StepLabel]]:
        asked = [question for question in questions if question.steps]
        judged, scored = iter(self._judged(asked)), iter(self._scored(asked))
        threshold = self.threshold if self.prm else None
        labels = []
        for parts in spans:
            words: Sequence[str | None] = next(judged) if parts and self.judge else [None] * len(parts)
            numbers = next(scored) if parts and self.prm else [None] * len(parts)
            sources = zip(parts, words, numbers, strict=True)
            labels.append([step_label(part, judge=w, prm=p, threshold=threshold) for part, w, p in sources])
        return labels

    def _judged(self, questions: Sequence[Question]) -> list[Sequence[str]]:
        if self.judge is None:
            return []
        with progress("judge", len(questions), quiet=self.quiet, unit="responses") as advance:
            answers = self.judge.ask(questions, advance)
        self.outcomes.update(answer.outcome for answer in answers)
        faults = (answer.why for answer in answers if answer.outcome != "answered")
        self.first_fault = self.first_fault or next(faults, None)
        if self.judge.given_up:
            self.check()
        return [_words(answer, len(question.steps)) for answer, question in zip(answers, questions, strict=True)]

    def _scored(self, questions: Sequence[Question]) -> list[list[float | None]]:
        if self.prm is None:
            return []
        with progress("step model", len(questions), quiet=self.quiet, unit="responses") as advance:
            return self.prm.score(questions, advance)

    def _count(self, labels: Sequence[StepLabel]) -> None:
        self.counts.update(step_responses=1, steps=len(labels))
        for label in labels:
            tokens = label["end"] - label["start"]
            self.counts["step_tokens"] += tokens
            by_judge = label["judge"] == "correct"
            by_model = label["prm"] is not None and label["prm"] > self.threshold
            if by_judge or by_model:
                who = "both" if by_judge and by_model else "judge_only" if by_judge else "prm_only"
                self.counts[f"tokens_correct_{who}"] += tokens
            self.counts["steps_beyond_prm"] += bool(self.prm) and label["prm"] is None


def open_labeller(
    source: Source,
    tokenizer: str | None,
    *,
    judge: str | None,
    judge_model: str | None,
    judge_timeout: float,
    judge_requests: int,
    prm: str | None,
    threshold: float,
    which: str,
    dtype: str,
    device: str,
    token_budget: int,
    quiet: bool,
    allow: tuple[str, ...] = (),
) -> tuple[Labeller, dict[str, Any]]:
    """What labels the steps of a table, and what its record of provenance says of it beside the parameters.

    Args:
        source: the rollouts.
        tokenizer: the checkpoint whose tokenizer they were sampled with.
        judge: base URL of an OpenAI-compatible endpoint, or None.
        judge_model: its name for the model.
        judge_timeout: seconds for one attempt.
        judge_requests: how many are in flight at once.
        prm: checkpoint of a process reward model, or None.
        threshold: what its p(correct) must be above.
        which: `wrong` labels the responses that are not graded correct, `all` every one.
        dtype, device, token_budget: how the process reward model computes.
        quiet: show no progress, and do not say where texts are sent.
        allow: fields that may differ: `tokenizer`.

    Raises:
        UsageError: something is missing or makes no sense.
        MismatchError: another tokenizer sampled.
        InputError: a checkpoint cannot be loaded.
    """
    if judge is None and prm is None:
        raise UsageError("--steps has nobody to ask; give --judge, --step-prm, or both")
    if tokenizer is None:
        raise UsageError(
            "--steps needs a tokenizer; give --tokenizer, the checkpoint that the responses were sampled by"
        )
    if which not in ("wrong", "all"):
        raise UsageError(f"--steps-of {which}: must be wrong or all")
    if not 0 <= threshold < 1:
        raise UsageError(f"--step-threshold {threshold:g}: must be at least 0 and below 1")
    if "prompt" not in source.schema.names:
        check_needs(source.path, source.schema.names, ["prompt_tokens"])
    judging = judge and open_judge(judge, judge_model, timeout=judge_timeout, requests=judge_requests)
    decode = _decoder(source, tokenizer, allow)
    model = prm and open_step_model(prm, dtype=dtype, device=device, token_budget=token_budget)
    facts = {}
    if judging:
        facts["judge_instructions"] = xxhash.xxh3_128_hexdigest(INSTRUCTIONS.encode())
        if not judging.address.loopback and not quiet:
            clear = "" if judging.address.secure else ", in the clear"
            notice(f"score: problems, answers and responses are sent to {judging.address.host}{clear}")
    if model:
        facts["step_prm"] = model.policy.digest
    return Labeller(decode, judging or None, model or None, threshold, which, quiet), facts


def _decoder(source: Source, path: str, allow: tuple[str, ...]) -> Decode:
    # A directory that holds a tokenizer and no model will do.
    policy = find_policy(path) if (Path(path) / LATEST).exists() else Policy(Path(path), 0)
    tokenizer = load_tokenizer(policy)
    check_tokenizer(source, policy, allow)

    @lru_cache(maxsize=REMEMBERED)
    def text(ids: tuple[int, ...]) -> str:
        found: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return found

    return lambda ids: text(tuple(ids))


def _said(prompt: str) -> str:
    """A prompt as text; of a conversation, what was said in it."""
    try:
        turns = json.loads(prompt)
        if isinstance(turns, list) and turns:
            return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    return prompt


def _words(answer: Answer, steps: int) -> Sequence[str]:
    return answer.verdicts if answer.outcome == "answered" else [answer.outcome] * steps
