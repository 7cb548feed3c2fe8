"""A small run whose model wrote what a page must not obey, for the tests of `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.laws.evaluate import evaluate
from entropyctl.table import new_record, write
from entropyctl.table.columns import list_column

from .conftest import CONTEXT, scored_rows

# Pieces of text for the 20 tokens of `scored_rows`.
PIECES = [
    *(
        " the",
        " so",
        " 12",
        "\n",
        "</script>",
        "<script>window.obeyed=1</script>",
        "<img src=x onerror=window.obeyed=1>",
    ),
    *("\u202eright to left", "\x1b[31mred", "\x00", "&amp;", "<!--", "\u2028", '"quoted"', "javascript:alert(1)"),
    *("<b>bold</b>", "${x}", "漢字", "😀", "%{x}"),
]
LONG = "a line without an end " * 50_000  # 1.1 MB
HOSTILE = "<script>window.obeyed=1</script><b>\u202e\x00"
CONTEXT_OF_RUN = {name: value for name, value in CONTEXT.items() if name != "tokenizer"}


def make_tokenizer(directory: Path) -> Path:
    """A tokenizer of PIECES, in a directory."""
    from tokenizers import Tokenizer, decoders, models

    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token=PIECES[0]))
    made.decoder = decoders.Fuse()
    directory.mkdir(parents=True)
    made.save(str(directory / "tokenizer.json"))
    return directory


def masked_rows(step: int, longest: int = 12) -> pa.Table:
    """A step with advantages and a mask, and texts that are hostile."""
    rows = scored_rows(step, longest=longest)
    lengths = np.array([len(tokens) for tokens in rows["tokens"].to_pylist()])
    rng = np.random.default_rng([9, step])
    kept = rng.random(lengths.sum()) < 0.8
    advantages = np.repeat(rng.choice([-1.0, 1.0], len(lengths)), lengths)
    new = {
        "advantages": list_column(advantages, lengths, pa.float32()),
        "base_mask": list_column(np.ones(len(kept), bool), lengths, pa.bool_()),
        "prompt": pa.array([f"{HOSTILE} prompt {i} of step {step}" for i in range(len(lengths))]),
        "data_source": pa.array([HOSTILE] * len(lengths)),
    }
    new["prompt"] = pa.array([LONG, *new["prompt"].to_pylist()[1:]])
    for name, column in new.items():
        rows = rows.append_column(name, column)
    return rows.set_column(
        rows.schema.get_field_index("loss_mask"), "loss_mask", list_column(kept, lengths, pa.bool_())
    )


def metrics_of(step: int) -> pa.Table:
    """Metrics in which the entropy falls by about what was predicted, and the reward rises."""
    entropy, change = 1.5 * 0.9**step, -0.05 / step
    values: dict[str, float] = {"entropy": entropy, "entropy_after": entropy + change, "realised_change": change}
    values |= {"predicted_change": change * 1e-6 * (1 + 0.1 * (-1) ** step), "learning_rate": 1e-6}
    values |= {"reward": 0.9 - 0.15 * float(np.exp(entropy)) + 0.005 * (-1) ** step}
    whole = {"step": step, "policy_version": step - 1}
    return pa.table(
        {name: pa.array([value], pa.int64()) for name, value in whole.items()}
        | {name: pa.array([value], pa.float64()) for name, value in values.items()}
    )


def make_run(run: Path, steps: int = 5, longest: int = 12) -> Path:
    """The directory that a loop could have left: a policy's tokenizer, metrics, evals, a masked table of each step."""
    make_tokenizer(run / "policy" / "latest")
    (run / "metrics").mkdir()
    (run / "evals").mkdir()
    for step in range(1, steps + 1):
        rows, record, directory = masked_rows(step, longest), new_record("mask", {}), run / f"step-{step:06d}"
        directory.mkdir()
        table(directory / "masked.parquet", "masked", record, rows)
        table(
            run / "metrics" / f"step-{step:06d}.parquet",
            "metrics",
            new_record("update", {}),
            metrics_of(step),
            [record],
        )
        version = pa.array([step - 1] * rows.num_rows, pa.int64())
        asked = rows.set_column(rows.schema.get_field_index("policy_version"), "policy_version", version)
        table(run / "evals" / f"v{step}.parquet", "evals", new_record("eval", {}), evaluate([asked]))
    return run


def table(
    path: Path, name: str, record: dict[str, Any], rows: pa.Table, chain: list[dict[str, Any]] | None = None
) -> Path:
    """A whole file of one step."""
    with write(str(path), name, record, context=CONTEXT_OF_RUN, chain=chain or []) as sink:
        sink.put(rows["step"][0].as_py() if "step" in rows.column_names else 0, rows)
    return path
