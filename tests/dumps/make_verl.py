"""Calls the functions of verl's two trainers that write its dumps, taken out of the unpacked package.

python make_verl.py UNPACKED_WHEEL DIRECTORY
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEGACY, V1 = "verl/trainer/ppo/ray_trainer.py", "verl/trainer/ppo/v1/trainer_base.py"
TWO, SEVEN = "user\nWhat is 2 + 2?\nassistant\n", "user\nWhat is 3 + 4?\nassistant\n"


def writer(path: Path) -> Callable[..., None]:
    """The function of verl, without the trainer around it, which wants Ray and a GPU."""
    tree = ast.parse(path.read_text())
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_write_generations")
    node.decorator_list = []
    scope: dict[str, Any] = {"os": os, "json": json, "np": np}
    exec(compile(ast.Module([node], []), str(path), "exec"), scope)
    found: Callable[..., None] = scope["_write_generations"]
    return found


def main(root: Path, out: Path) -> None:
    legacy, v1 = writer(root / LEGACY), writer(root / V1)
    # The older trainer: in the order of a balanced batch, numpy's booleans as text, a list that is too short left out.
    more = {
        "acc": [np.bool_(True), np.bool_(False), np.bool_(False), np.bool_(True)],
        "pred": ["4", "7", "5", "7"],
        "overlong_reward": [0.0, -0.5, 0.0, 0.0],
        "short": [1, 2],
    }
    outputs, answers = ["It is \\boxed{4}", "\\boxed{7} …", "5", "7"], ["4", "7", "4", "7"]
    for step in (9, 10):
        scores = [1.0, 0.5, 0.0, float(step == 10)]
        legacy([TWO, SEVEN, TWO, SEVEN], outputs, answers, scores, more, str(out / "legacy"), step)
    # v1: sorted by uid; a rollout has no more than that, and a validation has it all.
    uid = [f"5a{i // 2}c_{i % 2}_0" for i in range(4)]
    asked, said, right = [TWO, TWO, SEVEN, SEVEN], ["4", "5", "7", "8"], ["4", "4", "7", "7"]
    v1(asked, said, right, [1.0, -0.25, 1.0, 0.0], {"uid": uid}, str(out / "v1"), 3)
    more = {
        "reward": [1.0, -0.25, 1.0, -0.125],
        "score": [1.0, 0.0, 1.0, 0.0],
        "acc": [np.float32(1), np.float32(0), np.True_, 0.5],
        "pred": ["4", "5", "7", None],
        "uid": uid,
    }
    v1(asked, said, right, [1.0, 0.0, 1.0, 0.0], more, str(out / "validation"), 3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
