"""What tests share: running the real command, and small tables to run it on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from entropyctl.table import new_record, write
from entropyctl.table.columns import list_column

# How long an example takes says what else the machine does, not whether the mathematics is right.
settings.register_profile("entropyctl", deadline=None)
settings.register_profile("same-every-time", deadline=None, derandomize=True)
settings.load_profile("entropyctl")

# A shell has its jobs in the background ignore interrupts, and what ignores one hands that on to all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

# Files that take minutes, the longest first: begun last, one of them would keep a core busy while the others idle.
LONG = ("test_readme", "test_torchrun", "test_loop", "test_ray", "test_training_runs", "test_table_files")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; the rest as it is."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@dataclass
class Ran:
    """What a command did. Printed whole when an assertion on it fails."""

    command: list[str]
    code: int
    out: bytes
    err: str

    def __repr__(self) -> str:
        out = self.out.decode(errors="replace")
        return f"$ {' '.join(self.command)}\n[exit {self.code}]\n-- stdout\n{out[:3000]}\n-- stderr\n{self.err[-3000:]}"

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def line(self) -> str:
        """The one line of the error message."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self
        return lines[0]


Cli = Callable[..., Ran]


def without_costs(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics but for what differs from run to run: time and memory."""
    costs = ("seconds", "tokens_per_second", "mfu", "peak_memory")
    return {k: v for k, v in row.items() if k not in costs and not k.endswith("_seconds")}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `entropyctl ARGS...` in the test's own directory: `cli("mask", "none", "in.parquet", stdin=b"", env={})`."""

    def run(*args: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path = tmp_path) -> Ran:
        words = [str(a) for a in args]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ENTROPYCTL_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        done = subprocess.run(
            [sys.executable, "-m", "entropyctl", *words],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=environment | (env or {}),
            timeout=500,
        )
        return Ran(["entropyctl", *words], done.returncode, done.stdout, done.stderr.decode())

    return run


def scored_rows(step: int = 1, groups: int = 3, samples: int = 4, longest: int = 6, seed: int = 0) -> pa.Table:
    """A step of a scored table with plausible numbers: `groups * samples` rows of 1 to `longest` tokens."""
    rng = np.random.default_rng([seed, step])
    rows = groups * samples
    lengths = rng.integers(1, longest + 1, rows)
    count = int(lengths.sum())
    logits = rng.normal(size=(count, 20)) * 2
    tokens = np.array([rng.integers(20) for _ in range(count)])
    from entropyctl.dynamics import token_statistics

    stats = token_statistics(logits, tokens)
    outcome = rng.integers(0, 2, rows)

    def floats(values: np.ndarray) -> pa.Array:
        return list_column(values, lengths, pa.float32())

    return pa.table(
        {
            "step": pa.array([step] * rows, pa.int64()),
            "prompt_id": [f"p{i // samples}" for i in range(rows)],
            "sample": pa.array([i % samples for i in range(rows)], pa.int32()),
            "prompt_tokens": pa.array([[1, 2, 3]] * rows, pa.list_(pa.int32())),
            "tokens": list_column(tokens, lengths, pa.int32()),
            "response": [f"answer {i}" for i in range(rows)],
            "rollout_logprobs": floats(stats.logprobs),
            "finish_reason": ["stop"] * rows,
            "loss_mask": list_column(np.ones(count, bool), lengths, pa.bool_()),
            "policy_version": pa.array([0] * rows, pa.int64()),
            "seed": pa.array([seed] * rows, pa.int64()),
            "reward": pa.array(outcome.astype(np.float32)),
            "outcome": ["correct" if o else "wrong" for o in outcome],
            "predicted": [str(i % 3) for i in range(rows)],
            "logprobs": floats(stats.logprobs),
            "entropies": floats(stats.entropies),
            "s_star": floats(stats.s_star),
            "expected_s": floats(stats.expected_s),
            "sum_p2": floats(stats.sum_p2),
        }
    )


CONTEXT = {
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"},
    "tokenizer": "t0",
    "policies": {"0": "d0"},
}


def write_scored(path: Path, *steps: pa.Table, context: dict | None = None, record: dict | None = None) -> Path:
    """A whole scored file out of steps (default: one)."""
    with write(str(path), "scored", record or new_record("score", {}), context=context or CONTEXT) as sink:
        for rows in steps or (scored_rows(),):
            sink.put(rows["step"][0].as_py(), rows)
    return path


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A scored file of two steps."""
    return write_scored(tmp_path / "scored.parquet", scored_rows(1), scored_rows(2))


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a byte tokenizer: a real checkpoint that loads in a tenth of a second."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", hidden_size=32)


@pytest.fixture(scope="session")
def vllm_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in a shape that vLLM's attention has on a CPU, with tied embeddings."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "wide", hidden_size=128, tie_word_embeddings=True)


def tiny_llama(directory: Path, **shape: Any) -> Path:
    """A random two-layer Llama of four heads with a byte tokenizer, saved in a directory."""
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<end>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.save_pretrained(directory)
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=0,
        initializer_range=0.3,
        **shape,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture
def policy_root(tiny_policy: Path, tmp_path: Path) -> Path:
    """A policy of versions whose version 0 is the tiny model."""
    root = tmp_path / "policy"
    root.mkdir()
    (root / "v000000").symlink_to(tiny_policy)
    (root / "latest").symlink_to("v000000")
    return root


@pytest.fixture(scope="session")
def tiny_critic(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a value head in the place of its output layer, of weights that are not zero."""
    import shutil

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("models") / "critic"
    torch.manual_seed(11)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tiny_policy, num_labels=1)
    torch.nn.init.constant_(model.score.bias, 0.25)
    model.save_pretrained(directory)
    for file in tiny_policy.glob("*token*"):
        shutil.copyfile(file, directory / file.name)
    return directory
