"""Traces of verifiers, as prime-rl keeps them: graphs of messages, whose branches are responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from entropyctl.imports._dump import Dump
from entropyctl.imports._messages import said
from entropyctl.imports._record import Array, Record, under
from entropyctl.imports._rows import Response
from entropyctl.prompts._problem import canonical, plain, problem_id

# In the order in which they learn: what the later says of a token replaces what the earlier said.
PRODUCERS = ("orchestrator", "trainer")
STREAMS = {"trainer_logprobs": "logprobs", "entropies": "entropies", "advantages": "advantages"}
FINISHED = ("stop", "length")


class Annotations(NamedTuple):
    """What was learnt of traces after they had been written: numbers for each token of a branch, and advantages."""

    streams: dict[tuple[str, int, str], Array]
    advantages: dict[str, float]


def read_annotations(dump: Dump) -> Annotations:
    """The updates in `annotations/` beside a file of traces; none where there is no such directory."""
    found = Annotations({}, {})
    for producer in PRODUCERS:
        beside = dump.beside(f"annotations/{producer}.jsonl")
        for record in beside.records() if beside else ():
            name = record.text("trace_id") or ""
            if (advantage := record.within("info").number("advantage")) is not None:
                found.advantages[name] = advantage
            for branch in _objects(record, "branches"):
                for field in STREAMS:
                    if values := branch.value.get(field):
                        length = len(values) if isinstance(values, list) else 0
                        found.streams[name, branch.integer("index"), field] = branch.numbers(field, length)
    return found


def trace_responses(dump: Dump, record: Record, learnt: Annotations) -> Iterator[Response]:
    """The responses of an episode, or of a trace alone.

    Args:
        dump: its file.
        record: the episode or the trace.
        learnt: `read_annotations` of the file.

    Raises:
        InputError: it is neither, or damaged.
    """
    traces = _objects(record, "traces") if "traces" in record.value else [record]
    for trace in traces:
        if "nodes" not in trace.value:
            raise trace.fault(
                "is neither a token export nor an episode or trace; name prime-rl's traces or token_exports"
            )
        if trace.within("agent").value.get("trainable", True):
            yield from _branches(trace, _common(dump, record, trace), learnt)


def _common(dump: Dump, episode: Record, trace: Record) -> Response:
    """What all branches of a trace share."""
    task, work = trace.within("task"), episode.within("run").within("work")
    data = task.within("data") if "data" in task.value else task
    policy, env = work.within("policy"), episode.within("env")
    scores = trace.within("rewards")
    rewards = [reward for name in scores.value if (reward := _reward(scores, name)) is not None]
    step = dump.step if dump.step is not None else work.integer("step") if "step" in work.value else 0
    steady = policy.value.get("start") == policy.value.get("end")
    answer = data.value.get("answer")
    return {
        "step": step,
        "prompt_id": task.text("key") or problem_id(canonical(plain(data.value)), None, None),
        "answer": answer if isinstance(answer, str) else None,
        "data_source": env.text("name") or env.text("id") or episode.text("env_name"),
        "policy_version": policy.integer("start") if steady and policy.value else None,
        "reward": sum(rewards) if rewards else None,
    }


def _reward(scores: Record, name: str) -> float | None:
    """Weight times score; None where there is no score."""
    if not isinstance(scores.value[name], dict):
        return None
    entry = scores.within(name)
    score, weight = entry.number("score"), entry.number("weight") if "weight" in entry.value else 1.0
    return None if score is None or weight is None else weight * score


def _branches(trace: Record, common: Response, learnt: Annotations) -> Iterator[Response]:
    """A response for each path from a root to a leaf on which the model has said something."""
    nodes = _objects(trace, "nodes")
    name = trace.text("id") or ""
    advantage = learnt.advantages.get(name, trace.within("info").number("advantage"))
    about = {key: plain(trace.value.get(key)) for key in ("id", "rewards", "metrics")}
    for index, path in enumerate(_paths(nodes)):
        branch = [nodes[place] for place in path]
        if not any(node.value.get("sampled") for node in branch):
            continue
        streams = {f: learnt.streams[name, index, f] for f in STREAMS if (name, index, f) in learnt.streams}
        yield {
            **common,
            **_texts(branch, trace),
            **_tokens(branch, streams, advantage),
            "finish_reason": _finished(trace, path[-1]),
            "extra": canonical({**about, "branch": index}),
        }


def _paths(nodes: Sequence[Record]) -> list[list[int]]:
    """The places of the nodes on each path from a root to a leaf, in order of the leaves."""
    parents = [_parent(node, place) for place, node in enumerate(nodes)]
    paths = []
    for leaf in sorted(set(range(len(nodes))) - set(parents)):
        path = [leaf]
        while (parent := parents[path[-1]]) is not None:
            path.append(parent)
        paths.append(path[::-1])
    return paths


def _parent(node: Record, place: int) -> int | None:
    if node.value.get("parent") is None:
        return None
    parent = node.integer("parent")
    if not 0 <= parent < place:  # a node is written after its parent, so that no path is a circle
        raise node.fault(f"its parent is node {parent}, which is not before it; the dump is damaged")
    return parent


def _texts(branch: Sequence[Record], trace: Record) -> Response:
    first = next(i for i, node in enumerate(branch) if node.value.get("sampled"))
    messages = [dict(node.within("message").value) for node in branch]
    before = [{"role": m.get("role"), "content": plain(m.get("content"))} for m in messages[:first]]
    after = [m for m, node in zip(messages, branch, strict=True) if node.value.get("sampled")]
    return {"prompt": canonical(before), "prompt_kind": "messages", "response": said(after, trace)}


def _tokens(branch: Sequence[Record], streams: dict[str, Array], advantage: float | None) -> Response:
    """The columns that have a number for each token; null where the trace was kept without tokens."""
    names = ("prompt_tokens", "tokens", "loss_mask", "rollout_logprobs", *STREAMS.values())
    ids = [node.tokens("token_ids") for node in branch]
    ids_N = np.concatenate(ids)
    if not len(ids_N):
        return dict.fromkeys(names)
    masks = [node.flags("mask", len(own)) for node, own in zip(branch, ids, strict=True)]
    chosen_N = np.concatenate(masks)
    first = int(chosen_N.argmax()) if chosen_N.any() else len(ids_N)
    found: Response = {"prompt_tokens": ids_N[:first], "tokens": ids_N[first:], "loss_mask": chosen_N[first:]}
    for field, column in {"logprobs": "rollout_logprobs", **STREAMS}.items():
        values_N = _spread(branch, masks, field)
        if field in streams:
            known = min(len(streams[field]), len(ids_N))
            values_N = np.full(len(ids_N), np.nan)
            values_N[:known] = streams[field][:known]
        found[column] = under(values_N[first:], chosen_N[first:])
    if found["advantages"] is None and advantage is not None:
        found["advantages"] = np.where(chosen_N[first:], advantage, 0.0)
    return found


def _spread(branch: Sequence[Record], masks: Sequence[Array], field: str) -> Array:
    """`[N]` numbers that nodes keep for their sampled tokens alone, in the places of these; NaN elsewhere."""
    parts = []
    for node, mask in zip(branch, masks, strict=True):
        part = np.full(len(mask), np.nan)
        if mask.any() and node.value.get(field):
            part[mask] = node.numbers(field, int(mask.sum()))
        parts.append(part)
    return np.concatenate(parts)


def _finished(trace: Record, leaf: int) -> str | None:
    """Why the call that made a node ended, where that is one of our reasons."""
    calls = [call for call in _objects(trace, "calls") if call.value.get("node") == leaf]
    reason = calls[-1].value.get("finish_reason") if calls else None
    return reason if reason in FINISHED else None


def _objects(record: Record, name: str) -> list[Record]:
    values = record.value.get(name) or []
    if not isinstance(values, list):
        raise record.fault(f"'{name}' must be a list; name a file that prime-rl wrote")
    if odd := [place for place, value in enumerate(values) if not isinstance(value, dict)]:
        raise record.fault(f"entry {odd[0]} of '{name}' must be an object; name a file that prime-rl wrote")
    return [Record(record.path, f"{record.place}: '{name}' {place}", value) for place, value in enumerate(values)]
