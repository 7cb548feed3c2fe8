"""Make a critic out of a policy checkpoint: its weights, and a value head of zeros in the place of the output layer.

    python examples/critic_from_policy.py CHECKPOINT OUT

`score --critic OUT` writes values that are all 0 at first. To train it, make it version 0 of a directory of versions:

    python examples/critic_from_policy.py CHECKPOINT run/critic/v000000 && ln -s v000000 run/critic/latest

and give `--critic run/critic` to `score` and `update`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification


def main(policy: Path, out: Path) -> None:
    """Write the critic, the tokenizer's files with it."""
    model = AutoModelForTokenClassification.from_pretrained(
        policy, num_labels=1, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    inside = set(model.base_model.modules())
    (head,) = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m not in inside)
    # Training has to start from "worth nothing": what transformers puts into a new head is random.
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    model.save_pretrained(out)
    # Byte for byte, by which `score` knows that critic and policy read text alike.
    for pattern in ("*token*", "vocab*", "merges*", "chat_template*"):
        for file in policy.glob(pattern):
            shutil.copyfile(file, out / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
