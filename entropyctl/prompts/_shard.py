"""One part of the problems for each of several machines, so that a problem's samples stay together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entropyctl.errors import UsageError
from entropyctl.prompts._problem import Problem


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `of`."""

    index: int
    of: int

    def part(self, problems: Sequence[Problem]) -> list[Problem]:
        """Every problem lies in exactly one of the parts, which differ by one problem in size at most."""
        return list(problems[self.index :: self.of])

    @property
    def file_name(self) -> str:
        """`shard-00002-of-00004.parquet`; a directory of them is one table."""
        return f"shard-{self.index:05d}-of-{self.of:05d}.parquet"

    def __str__(self) -> str:
        """`2/4`, as it is typed."""
        return f"{self.index}/{self.of}"


def parse_shard(text: str, environment: Mapping[str, str] | None = None) -> Shard:
    """A part by its name.

    Args:
        text: `i/n` with i from 0 to n - 1, or `auto`: torchrun's RANK of WORLD_SIZE, else the Slurm array's task.
        environment: the process's by default.

    Raises:
        UsageError: it names no part, or nothing in the environment does.
    """
    environment = os.environ if environment is None else environment
    if text == "auto":
        return _from_environment(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise UsageError(f"--shard {text}: must be I/N with I from 0 to N - 1, or auto")
    return Shard(int(found[1]), int(found[2]))


def _from_environment(environment: Mapping[str, str]) -> Shard:
    if {"RANK", "WORLD_SIZE"} <= environment.keys():
        return parse_shard(f"{environment['RANK']}/{environment['WORLD_SIZE']}")
    if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= environment.keys():
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
        index = int(environment["SLURM_ARRAY_TASK_ID"]) - first
        return parse_shard(f"{index}/{environment['SLURM_ARRAY_TASK_COUNT']}")
    raise UsageError(
        "--shard auto: neither torchrun (RANK, WORLD_SIZE) nor a Slurm array (SLURM_ARRAY_TASK_ID) started this; "
        "give --shard I/N"
    )
