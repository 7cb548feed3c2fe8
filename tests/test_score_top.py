"""`score --top-k`: the likeliest tokens in each place, with the log p that the whole model gives them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from entropyctl.table import new_record, write

from .conftest import Cli

TEXTS = [([5, 6, 7], [8, 9, 10]), ([5, 6, 7], [11]), ([40], [41, 42])]


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    tokens = pa.list_(pa.int32())
    table = {
        "step": [0] * 3,
        "prompt_id": ["a", "a", "b"],
        "sample": pa.array([0, 1, 0], pa.int32()),
        "prompt_tokens": pa.array([prompt for prompt, _ in TEXTS], tokens),
        "tokens": pa.array([response for _, response in TEXTS], tokens),
    }
    sampling = {"sampling": {"temperature": 0.7}}
    with write(str(tmp_path / "rollouts.parquet"), "rollouts", new_record("rollout", {}), context=sampling) as sink:
        sink.put(0, pa.table(table))
    return tmp_path / "rollouts.parquet"


def test_they_are_those_of_the_whole_model(cli: Cli, rollouts: Path, tiny_policy: Path, tmp_path: Path) -> None:
    ran = cli("score", rollouts, "--policy", tiny_policy, "--top-k", "4", "-o", "scored.parquet")
    assert ran.code == 0, ran
    rows = pq.read_table(tmp_path / "scored.parquet").to_pydict()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    for i, (prompt, response) in enumerate(TEXTS):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits / 0.7, 1).topk(4)
        assert rows["top_tokens"][i] == wanted.indices.tolist()
        torch.testing.assert_close(torch.tensor(rows["top_logprobs"][i]), wanted.values, atol=1e-5, rtol=1e-5)


def test_those_of_another_scoring_do_not_stay(cli: Cli, rollouts: Path, tiny_policy: Path, tmp_path: Path) -> None:
    cli("score", rollouts, "--policy", tiny_policy, "--top-k", "2", "-o", "first.parquet")
    ran = cli("score", "first.parquet", "--policy", tiny_policy, "-o", "second.parquet")
    assert ran.code == 0, ran
    assert "top_tokens" in pq.read_schema(tmp_path / "first.parquet").names
    assert not {"top_tokens", "top_logprobs"} & set(pq.read_schema(tmp_path / "second.parquet").names)


def test_what_cannot_be_is_one_line(cli: Cli, rollouts: Path, tiny_policy: Path) -> None:
    ran = cli("score", rollouts, "--reward", "exact", "--top-k", "2", "-o", "x.parquet")
    assert (ran.code, "--top-k: belongs to --policy" in ran.line) == (2, True)
    ran = cli("score", rollouts, "--policy", tiny_policy, "--top-k", "100000", "-o", "x.parquet")
    assert (ran.code, "the model has 257 tokens; ask for no more" in ran.line) == (2, True), ran
