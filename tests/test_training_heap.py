"""What `update` keeps of the memory that it has freed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from entropyctl.training import heap

from .conftest import ROOT

MIB = 2**20
# 60 blocks of 4 MiB, of which every other one goes, and then 15 of 8 MiB, which fit into none of the holes.
HOLES = """
    import torch
    from entropyctl.training.heap import Bound, _held, keep_freed
    keep_freed()
    bound = Bound(spare=32 * 2**20)
    before = _held()
    blocks = [torch.zeros(2**20) for _ in range(60)]
    bound()
    blocks = blocks[::2]
    blocks += [torch.zeros(2**21) for _ in range(15)]
    print(_held() - before)
    bound()
    print(_held() - before)
    print(sum(float(block.sum()) for block in blocks))
"""


@pytest.mark.skipif(heap._glibc() is None, reason="glibc's heap")
def test_holes_are_given_back_when_they_come_to_the_bound() -> None:
    """240 MiB are needed at once, before and after; 360 are held until the heap is looked after."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOLES)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    held, bounded, total = (float(line) for line in ran.stdout.split())
    assert held > 350 * MIB
    assert 230 * MIB < bounded < (240 + 32) * MIB
    assert total == 0


def test_every_matrix_and_layer_looks_after_the_heap_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    monkeypatch.setattr(heap.Bound, "__call__", lambda bound, at_most=False: looks.append(at_most))
    layers = [torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()) for _ in range(4)]
    heap.bound_holes(layers)
    model = torch.nn.Sequential(*layers)
    out = model(torch.ones(2, 3)).sum()
    assert looks == 6 * [False] + 2 * [True]
    out.backward()
    assert looks[8:] == 8 * [False]
    with torch.no_grad():
        model(torch.ones(2, 3))
    assert len(looks) == 24
