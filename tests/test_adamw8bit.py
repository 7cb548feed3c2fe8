"""AdamW with moments in 8 bits: what codes lose, and how near its steps are to AdamW's."""

from __future__ import annotations

import pytest
import torch

from entropyctl.policy.trainer_state import TrainerState, write_shard
from entropyctl.training import Optimization, Optimizer
from entropyctl.training.adamw8bit import AdamW8bit, block_of, pack, unpack, values_of_codes
from entropyctl.training.optimizer import load_state, save_state

CPU = torch.device("cpu")


def test_the_codes_are_those_of_the_paper() -> None:
    signed, positive = values_of_codes(True, CPU), values_of_codes(False, CPU)
    assert len(signed) == len(positive) == 256
    assert (signed[0].item(), signed[-1].item()) == pytest.approx((-0.99296875, 1.0))
    assert signed[signed > 0].min().item() == pytest.approx(0.55e-6)
    assert (positive[0].item(), positive[-1].item()) == (0.0, 1.0)
    assert positive[1].item() == pytest.approx(0.325e-6)


@pytest.mark.parametrize(
    ("shape", "block"), [((7, 576), 192), ((3, 4096), 256), ((5, 2, 64), 128), ((9,), 0), ((9, 8), 0)]
)
def test_blocks_divide_rows(shape: tuple[int, ...], block: int) -> None:
    assert block_of(torch.zeros(shape)) == block


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_near_what_they_stand_for(signed: bool) -> None:
    torch.manual_seed(0)
    values = torch.randn(6, 512) * torch.logspace(-6, 0, 6)[:, None]
    values = values if signed else values.square()
    codes, scales = torch.zeros(6, 512, dtype=torch.uint8), torch.zeros(6, 2)
    pack(values, codes, scales, signed=signed)
    once = unpack(codes, scales, signed=signed)
    large = values.abs() > 0.1 * scales.repeat_interleave(256, dim=1)
    assert ((once - values).abs() / values.abs())[large].max() < 0.07
    assert ((once - values).abs() <= 0.02 * scales.repeat_interleave(256, dim=1)).all()
    pack(0 * values, codes, scales, signed=signed)
    assert not unpack(codes, scales, signed=signed).any()


def test_a_second_moment_never_vanishes() -> None:
    values = torch.full((1, 32), 1e-12)
    values[0, :2] = torch.tensor([1.0, 0.0])
    codes, scales = torch.zeros(1, 32, dtype=torch.uint8), torch.zeros(1, 1)
    pack(values, codes, scales, signed=False)
    found = unpack(codes, scales, signed=False)
    assert found[0, 1] == 0 and bool((found[0, 2:] > 0).all())


class Regression(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 3)

    def loss(self, step: int) -> torch.Tensor:
        x = torch.randn(128, 64, generator=torch.Generator().manual_seed(step))
        return (self.second(self.first(x).tanh()) - x[:, :3].sin()).square().mean()


def trained(name: str, steps: range, model: Regression, state: TrainerState | None = None) -> Optimizer:
    optimizer = Optimizer(model, Optimization(name, 3e-3, 0.01))
    load_state(optimizer, state or {})
    for step in steps:
        optimizer.clear()
        model.loss(step).backward()
        optimizer.inner.step()
    return optimizer


def test_its_steps_are_nearly_those_of_adamw() -> None:
    start, exact, small = Regression(), Regression(), Regression()
    trained("adamw", range(60), exact)
    optimizer = trained("adamw-8bit", range(60), small)
    begin, end = start.loss(1000).item(), exact.loss(1000).item()
    assert small.loss(1000).item() == pytest.approx(end, abs=0.02 * (begin - end))
    moved = [p - q for p, q in zip(exact.parameters(), start.parameters(), strict=True)]
    there = [p - q for p, q in zip(small.parameters(), start.parameters(), strict=True)]
    a, b = (torch.cat([w.detach().flatten() for w in parts]) for parts in (moved, there))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.98
    state = optimizer.inner.state[small.first.weight]
    assert sum(value.numel() * value.element_size() for value in state.values()) < 2.3 * small.first.weight.numel()
    assert isinstance(optimizer.inner, AdamW8bit)


def test_it_continues_where_its_saved_state_ends(tmp_path) -> None:
    one, other = Regression(), Regression()
    trained("adamw-8bit", range(8), one)
    write_shard(tmp_path, save_state(trained("adamw-8bit", range(5), other)))
    trained("adamw-8bit", range(5, 8), other, TrainerState(tmp_path))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
