"""`entropyctl score` with models beside the policy: a reference, a reward model, a critic, and a second policy."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from entropyctl.errors import EngineError
from entropyctl.policy import find_policy
from entropyctl.policy import scorer as scorers
from entropyctl.policy.checkpoint import load_critic, load_model
from entropyctl.policy.publish import publish
from entropyctl.table import read
from entropyctl.tokenstats import split_critic, value_sequences

from .conftest import Cli

CPU = torch.device("cpu")
TEMPERATURE = 0.7


@pytest.fixture
def rollouts(cli: Cli, policy_root: Path, tmp_path: Path) -> Path:
    lines = [{"question": f"{i}?", "answer": "7"} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    ran = cli(
        *("rollout", "--policy", policy_root, "--prompts", "prompts.jsonl", "--n", 2, "--max-tokens", 9, "-q"),
        *("--temperature", TEMPERATURE, "--steps", 2, "-o", "rollouts.parquet"),
    )
    assert ran.code == 0, ran
    return tmp_path / "rollouts.parquet"


@pytest.fixture
def other(policy_root: Path, tmp_path: Path) -> Path:
    """A checkpoint with the policy's tokenizer and other weights."""
    model = load_model(find_policy(str(policy_root)), torch.float32, CPU)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.2)
    shutil.copytree(policy_root / "latest", tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def rows_of(path: Path) -> tuple[pa.Table, dict]:
    with read([str(path)]) as source:
        return pa.concat_tables([step.rows for step in source]), source.context


def test_log_probabilities_under_a_reference_are_those_of_a_plain_forward_pass(
    cli: Cli, rollouts: Path, other: Path, tmp_path: Path
) -> None:
    ran = cli("score", rollouts, "--ref", other, "--json", "-o", "scored.parquet", "--token-budget", 40)
    assert ran.code == 0, ran
    rows, context = rows_of(tmp_path / "scored.parquet")
    model = load_model(find_policy(str(other)), torch.float32, CPU)
    columns = (rows[n].to_pylist() for n in ("prompt_tokens", "tokens", "ref_logprobs"))
    for prompt, tokens, found in zip(*columns, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
        truth = (logits / TEMPERATURE).log_softmax(dim=1)[range(len(tokens)), tokens]
        np.testing.assert_allclose(found, truth, atol=1e-5)
    assert context["scoring"] == {"ref": {"0": find_policy(str(other)).digest}}
    mean = np.mean([x for row in rows["ref_logprobs"].to_pylist() for x in row])
    assert json.loads(ran.text)["mean_ref_logprobs"] == pytest.approx(mean, rel=1e-5)


def test_values_are_the_heads_output_where_each_token_is_predicted(
    cli: Cli, rollouts: Path, tiny_critic: Path, tmp_path: Path
) -> None:
    ran = cli("score", rollouts, "--critic", tiny_critic, "-o", "scored.parquet", "--token-budget", 40)
    assert ran.code == 0, ran
    rows, context = rows_of(tmp_path / "scored.parquet")
    model = transformers.AutoModelForTokenClassification.from_pretrained(tiny_critic).eval()
    columns = (rows[n].to_pylist() for n in ("prompt_tokens", "tokens", "values"))
    for prompt, tokens, found in zip(*columns, strict=True):
        with torch.no_grad():
            every = model(torch.tensor([prompt + tokens])).logits[0, :, 0]
        np.testing.assert_allclose(found, every[len(prompt) - 1 : -1], atol=1e-5)
        np.testing.assert_allclose(found[0], model(torch.tensor([prompt])).logits[0, -1, 0].item(), atol=1e-5)
    assert np.ptp(np.concatenate(rows["values"].to_pylist())) > 0.1
    assert context["scoring"]["critic"] == {"0": find_policy(str(tiny_critic)).digest}


def test_the_policy_as_its_own_reference_gives_the_same_numbers_in_one_command_or_in_two(
    cli: Cli, rollouts: Path, policy_root: Path, tiny_critic: Path, tmp_path: Path
) -> None:
    every = ["--ref", policy_root, "--prm", policy_root, "--critic", tiny_critic]
    one = cli("score", rollouts, "--policy", policy_root, *every, "-o", "one.parquet")
    assert one.code == 0, one
    rows, context = rows_of(tmp_path / "one.parquet")
    assert rows["ref_logprobs"].equals(rows["logprobs"]) and rows["prm_logprobs"].equals(rows["logprobs"])
    assert sorted(context["scoring"]) == ["critic", "dtype", "policies", "prm", "ref"]
    scored = cli("score", rollouts, "--policy", policy_root)
    two = cli("score", *every, "-o", "two.parquet", stdin=scored.out)
    assert two.code == 0, two
    assert rows_of(tmp_path / "two.parquet")[0].equals(rows)
    assert rows_of(tmp_path / "two.parquet")[1] == context
    new = cli("score", tmp_path / "one.parquet", *every, "--only-new", "-o", "new.parquet")
    assert new.code == 0, new
    columns = ["step", "prompt_id", "sample", "ref_logprobs", "prm_logprobs", "values"]
    assert pq.read_schema(tmp_path / "new.parquet").names == columns


def test_a_second_scoring_keeps_the_first_as_old(
    cli: Cli, rollouts: Path, policy_root: Path, other: Path, tmp_path: Path
) -> None:
    assert cli("score", rollouts, "--policy", policy_root, "-o", "scored.parquet").code == 0
    before, sampled = rows_of(tmp_path / "scored.parquet")
    options = ["--policy", other, "--keep-old", "--allow-mismatch", "policies"]
    ran = cli("score", "scored.parquet", *options, "-o", "again.parquet")
    assert ran.code == 0, ran
    after, context = rows_of(tmp_path / "again.parquet")
    assert after["old_logprobs"].equals(before["logprobs"]) and after["old_entropies"].equals(before["entropies"])
    assert not after["logprobs"].equals(before["logprobs"])
    assert context["scoring"]["policies"] == {"0": find_policy(str(other)).digest}
    assert context["scoring"]["old_policies"] == sampled["scoring"]["policies"]
    plain = cli("score", "scored.parquet", "--policy", other, "--allow-mismatch", "policies", "-o", "plain.parquet")
    assert plain.code == 0, plain
    assert "old_logprobs" not in rows_of(tmp_path / "plain.parquet")[0].column_names
    only = cli("score", "scored.parquet", *options, "--only-new", "-o", "only.parquet")
    assert only.code == 0, only
    assert {"old_logprobs", "old_entropies", "logprobs"} < set(pq.read_schema(tmp_path / "only.parquet").names)


def test_versions_of_a_critic_are_told_apart(cli: Cli, rollouts: Path, tiny_critic: Path, tmp_path: Path) -> None:
    root = tmp_path / "critic"
    root.mkdir()
    (root / "v000000").symlink_to(tiny_critic)
    (root / "latest").symlink_to("v000000")
    model = load_critic(find_policy(str(root)), torch.float32, CPU)
    with torch.no_grad():
        model.score.bias.add_(1.0)
    fresh = publish(find_policy(str(root)), model, lambda path: None, {})
    for path, name in ((tiny_critic, "zero"), (root, "one")):
        assert cli("score", rollouts, "--critic", path, "-o", f"{name}.parquet").code == 0
    zero, one = (np.concatenate(rows_of(tmp_path / f"{n}.parquet")[0]["values"].to_pylist()) for n in ("zero", "one"))
    np.testing.assert_allclose(one, zero + 1, atol=1e-5)
    assert rows_of(tmp_path / "one.parquet")[1]["scoring"]["critic"] == {"0": fresh.digest}


def test_faults_are_one_line(
    cli: Cli, rollouts: Path, policy_root: Path, tiny_policy: Path, tiny_critic: Path, tmp_path: Path
) -> None:
    def fails(code: int, words: str, *args: str | Path) -> None:
        ran = cli("score", rollouts, *args, "-o", "s.parquet")
        assert ran.code == code and words in ran.line, ran
        assert not (tmp_path / "s.parquet").exists()

    fails(2, "nothing to do; give --reward", "-q")
    fails(2, "--keep-old: belongs to --policy", "--ref", tiny_policy, "--keep-old")
    fails(3, "column 'logprobs' is missing", "--policy", policy_root, "--keep-old")
    fails(3, "no such directory", "--ref", "nowhere")
    # a causal model as critic, and a critic as causal model: transformers would make up the missing head
    fails(3, "has 2 labels and is no critic; give a token-classification checkpoint", "--critic", tiny_policy)
    fails(3, "has no weights 'lm_head.weight'; give a causal language model", "--ref", tiny_critic)
    renamed = tmp_path / "labelled"
    shutil.copytree(tiny_policy, renamed)
    config = json.loads((renamed / "config.json").read_text()) | {"id2label": {"0": "value"}, "label2id": {"value": 0}}
    (renamed / "config.json").write_text(json.dumps(config))
    fails(3, "has no weights 'score.bias'", "--critic", renamed)
    (renamed / "tokenizer.json").write_text("{}")
    fails(5, "was sampled with another tokenizer than that of", "--prm", renamed)


def test_a_critic_that_sees_what_follows_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    model = transformers.AutoModelForTokenClassification.from_config(config).eval()
    with pytest.raises(EngineError, match="sees what follows it"):
        split_critic(model)


@pytest.mark.parametrize("budget", [1, 25, 10_000])
def test_cutting_into_forward_passes_changes_no_value(tiny_critic: Path, budget: int) -> None:
    split = split_critic(load_critic(find_policy(str(tiny_critic)), torch.float32, CPU))
    assert split.sharing.packs
    sequences = [([5, 6, 7, 8, 9, 10, 11, 12], [3] * n) for n in (4, 1, 0, 6)] + [([7], [8, 9])]
    found = value_sequences(split, sequences, token_budget=budget)
    with torch.no_grad():
        each = [split.model(torch.tensor([p + r])).logits[0, len(p) - 1 : len(p) + len(r) - 1, 0] for p, r in sequences]
    torch.testing.assert_close(found, torch.cat(each), atol=1e-5, rtol=1e-5)


def test_several_models_are_never_in_memory_together(
    rollouts: Path, policy_root: Path, tiny_critic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def watched(load):
        def loading(*args):
            nonlocal most
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive) + 1)
            model = load(*args)
            alive.append(weakref.ref(model))
            return model

        return loading

    monkeypatch.setattr(scorers, "load_model", watched(scorers.load_model))
    monkeypatch.setattr(scorers, "load_critic", watched(scorers.load_critic))
    paths = {"policy": str(policy_root), "ref": str(policy_root), "critic": str(tiny_critic)}
    options = {"dtype": "float32", "device": "cpu", "token_budget": 4096, "quiet": True}
    with read([str(rollouts)]) as source:
        three = scorers.open_scorers(source, paths, **options)
        for step in source:
            rows = step.rows
            for scorer in three:
                rows = scorer.score(rows)
    assert most == 1 and len(alive) == 6  # three models for each of two steps
