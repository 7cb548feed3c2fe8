"""The state of training that is published beside a version: tensors in one file for each process, facts in JSON.

    trainer-v000003/state.json
    trainer-v000003/optimizer.safetensors                  of one process, or
    trainer-v000003/optimizer-00001-of-00002.safetensors   of each: its rows of tensors that are spread, under `rows`
                                                           where they begin; what is whole stands in the first

Any number of processes can read what any other number wrote, each the rows that it holds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from entropyctl.errors import InputError
from entropyctl.policy.versions import Policy, version_name
from entropyctl.table import notice
from entropyctl.table.atomic import sync_directory

FACTS = "state.json"
FILE = re.compile(r"optimizer(?:-(\d{5})-of-(\d{5}))?\.safetensors")


class Shard(NamedTuple):
    """What one process holds of the state."""

    tensors: dict[str, Tensor]
    rows: dict[str, int]  # at which row of the whole those of a tensor begin, for the tensors that are spread
    rank: int = 0
    size: int = 1


def write_shard(directory: Path, shard: Shard) -> None:
    """Write a process's part of the state; every one writes its own.

    Raises:
        OSError: the disk refuses.
        SafetensorError: likewise.
    """
    name = "optimizer.safetensors"
    if shard.size > 1:
        name = f"optimizer-{shard.rank + 1:05d}-of-{shard.size:05d}.safetensors"
    save_file(shard.tensors, directory / name, metadata={"rows": json.dumps(shard.rows)})
    with open(directory / name, "rb") as file:
        os.fsync(file.fileno())
    sync_directory(directory)


class _Piece(NamedTuple):
    file: Any
    begin: int
    end: int


class TrainerState(Mapping[str, Tensor]):
    """Tensors by name, read when they are asked for; whole, or some rows of one."""

    def __init__(self, directory: Path | None = None) -> None:
        """Open the files.

        Args:
            directory: of the state; None for an empty one.

        Raises:
            ValueError: a file is missing, or rows of a tensor.
        """
        self._pieces: dict[str, list[_Piece]] = {}
        found = [] if directory is None else [path for path in directory.iterdir() if FILE.fullmatch(path.name)]
        sizes = {int(match[2] or 1) for path in found if (match := FILE.fullmatch(path.name))}
        if directory is not None and (len(sizes) != 1 or len(found) != min(sizes)):
            raise ValueError(f"{len(found)} files optimizer*.safetensors, of which some are missing or too many")
        for path in sorted(found):
            file: Any = safe_open(path, framework="pt")
            rows = json.loads((file.metadata() or {}).get("rows", "{}"))
            for name in file.keys():  # noqa: SIM118, no mapping
                begin, shape = rows.get(name, 0), file.get_slice(name).get_shape()
                self._pieces.setdefault(name, []).append(_Piece(file, begin, begin + (shape[0] if shape else 1)))
        for name, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece.begin)
            if [piece.begin for piece in pieces] != [0, *(piece.end for piece in pieces[:-1])]:
                raise ValueError(f"rows of {name} are missing")

    def __getitem__(self, name: str) -> Tensor:
        """The whole of a tensor."""
        pieces = self._pieces[name]
        return pieces[0].file.get_tensor(name) if len(pieces) == 1 else self.part(name, 0, pieces[-1].end)

    def part(self, name: str, begin: int, end: int) -> Tensor:
        """Rows of a tensor, and no others are read."""
        pieces = [piece for piece in self._pieces[name] if piece.begin < end and begin < piece.end]
        if not pieces:
            return self._pieces[name][0].file.get_slice(name)[0:0]
        parts = [
            piece.file.get_slice(name)[max(begin - piece.begin, 0) : min(end, piece.end) - piece.begin]
            for piece in pieces
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._pieces)

    def __len__(self) -> int:
        """How many tensors."""
        return len(self._pieces)


def trainer_directory(root: Path, version: int) -> Path:
    """Where the state that belongs to a version stands."""
    return root / f"trainer-{version_name(version)}"


def load_trainer_state(policy: Policy) -> tuple[TrainerState, dict[str, Any]]:
    """Tensors and facts that were published with this version; empty for a version that no update made.

    Raises:
        InputError: they are damaged.
    """
    if policy.root is None:
        return TrainerState(), {}
    trainer = trainer_directory(policy.root, policy.version)
    if not trainer.is_dir():
        if policy.version > 0:
            notice(f"{policy.directory}: has no optimiser state beside it; starting with a fresh optimiser")
        return TrainerState(), {}
    try:
        return TrainerState(trainer), json.loads((trainer / FACTS).read_text(encoding="utf-8"))
    except Exception as error:
        raise InputError(f"{trainer}: is damaged ({error}); remove it to start with a fresh optimiser") from None
