"""Episodes of verifiers, written as prime-rl's file monitor writes them, with the updates that it adds beside them.

python make_traces.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
from verifiers.v1.configs.agent import WireAgentConfig
from verifiers.v1.episode import EnvInfo, GroupInfo, PolicySpan, TrainRunInfo, TrainWorkInfo, WireEpisode
from verifiers.v1.graph import MessageNode
from verifiers.v1.task import WireTaskData
from verifiers.v1.trace import AgentInfo, ModelCall, Reward, TraceTask, WireTrace
from verifiers.v1.types import AssistantMessage, SystemMessage, ToolMessage, UserMessage

OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
ASKED = [(SystemMessage(content="Be brief."), [1, 10]), (UserMessage(content="What is 2 + 2?"), [11, 12])]


def task() -> TraceTask[WireTaskData]:
    data = WireTaskData(idx=7, prompt="What is 2 + 2?", system_prompt="Be brief.", answer="4")
    return TraceTask(type="MathTask", data=data, key="gsm8k/7", hash="9f")


def told(parent: int | None, message: Any, ids: list[int]) -> MessageNode:
    return MessageNode(parent=parent, message=message, token_ids=ids, mask=[False] * len(ids), timestamp=1.0)


def said(parent: int, text: str, ids: list[int], logprobs: list[float]) -> MessageNode:
    """What the model said: the template's token, and its own."""
    mask = [False] * (len(ids) - len(logprobs)) + [True] * len(logprobs)
    message = AssistantMessage(content=text)
    return MessageNode(
        parent=parent, message=message, sampled=True, token_ids=ids, mask=mask, logprobs=logprobs, timestamp=1.0
    )


def trace(name: str, nodes: list[MessageNode], score: float, finish: Any, agent: str = "solver") -> WireTrace:
    who = AgentInfo(config=WireAgentConfig(model="policy"), name=agent, trainable=agent == "solver")
    rewards = {"correct": Reward(score=score), "format": Reward(score=1.0, weight=0.5)}
    calls = [ModelCall(node=len(nodes) - 1, finish_reason=finish)]
    found = WireTrace(id=name, task=task(), agent=who, nodes=nodes, rewards=rewards, calls=calls, ok=True)
    found.timing.start = 1.0
    return found


def update(name: str, advantage: float | None = None, **streams: list[float | None]) -> dict[str, Any]:
    """A record of prime-rl's `make_update`."""
    info = {} if advantage is None else {"effective": True, "advantage": advantage}
    branches = [{"index": 0, **streams}] if streams else []
    return {"version": 1, "trace_id": name, "info": info, "branches": branches}


def main(out: Path) -> None:
    beginning = [told(None, *ASKED[0]), told(0, *ASKED[1])]
    one = trace("a1", [*beginning, said(1, "4", [2, 20, 21], [-0.123456, -0.5])], 1.0, "stop")
    tool = told(2, ToolMessage(tool_call_id="c", content="5"), [30, 31])  # not the policy's own tokens
    talk = [*beginning, said(1, "Let me count.", [2, 22], [-0.25]), tool, said(3, "5", [2, 23], [-1.5])]
    two = trace("a2", talk, 0.0, "length")
    judge = trace("j1", [told(None, *ASKED[1]), said(0, "fine", [2, 5], [-0.1])], 1.0, "stop", "judge")
    lines = []
    for number, (traces, end) in enumerate([([one, judge], 3), ([two], 4)]):
        work = TrainWorkInfo(step=3, policy=PolicySpan(start=3, end=end))
        about = {"env": EnvInfo(id="gsm8k", name="gsm8k-easy"), "group": GroupInfo(id="g"), "ok": True}
        run = TrainRunInfo(id="r", work=work)
        episode = WireEpisode(id=f"e{number}", task=task(), traces=traces, run=run, **about)
        lines.append(orjson.dumps(episode.to_record(), default=str, option=OPTIONS))
    # Streams of the trainer are null outside of the loss mask; the second one lacks a token.
    updates = {
        "orchestrator": [
            update("a1", 0.5, advantages=[0.0] * 5 + [0.5, 0.5]),
            update("a2", -0.5),
        ],
        "trainer": [
            update("a1", trainer_logprobs=[None] * 5 + [-0.125, -0.5], entropies=[None] * 5 + [0.5, 1.0]),
            update("a2", trainer_logprobs=[None] * 5 + [-0.25], entropies=[None] * 5 + [0.75]),
        ],
    }
    annotations = out / "traces" / "step_4" / "train" / "annotations"
    annotations.mkdir(parents=True)
    (annotations.parent / "traces.jsonl").write_bytes(b"".join(lines))
    for producer, records in updates.items():
        (annotations / f"{producer}.jsonl").write_bytes(b"".join(orjson.dumps(r, option=OPTIONS) for r in records))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
