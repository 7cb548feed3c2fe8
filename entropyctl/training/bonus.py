"""The entropy bonus: a coefficient that is fixed, or that a controller moves towards a target entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from entropyctl.errors import UsageError
from entropyctl.objectives._entropy_bonus import skywork, trl

Control = Literal["fixed", "skywork", "trl"]

# Step, largest coefficient: Skywork-OR1's scripts and TRL's defaults.
DEFAULTS = {"skywork": (1e-4, 5e-3), "trl": (5e-3, 1.0)}


@dataclass
class EntropyBonus:
    """loss -= coef H, with a coefficient that remembers.

    skywork moves it once per step by the entropy estimate -mean log p of the rows; trl once per optimiser step by
    the exact entropy of the mini-batch before.
    """

    control: Control
    coef: float
    target: float | None = None  # 0.2 for both controllers
    delta: float | None = None
    largest: float | None = None
    active: bool = field(init=False)

    def __post_init__(self) -> None:
        """Fill in the controller's defaults and refuse what makes no sense.

        Raises:
            UsageError: names the option.
        """
        if self.control not in ("fixed", *DEFAULTS):
            raise UsageError(f"--entropy-control: there is no '{self.control}'; known: fixed, skywork, trl")
        given = (("--entropy-target", self.target), ("--entropy-delta", self.delta), ("--entropy-max", self.largest))
        if self.control == "fixed" and (idle := next((flag for flag, value in given if value is not None), None)):
            raise UsageError(f"{idle}: a fixed coefficient has no use for it; add --entropy-control skywork or trl")
        delta, largest = DEFAULTS.get(self.control, (0.0, math.inf))
        self.target = 0.2 if self.target is None else self.target
        self.delta = delta if self.delta is None else self.delta
        self.largest = largest if self.largest is None else self.largest
        # TRL applies no bonus before it has measured an entropy.
        self.active = self.control != "trl"
        bounds = (("--entropy-coef", self.coef), ("--entropy-delta", self.delta), ("--entropy-target", self.target))
        for flag, value in bounds:
            if not 0 <= value < math.inf:
                raise UsageError(f"{flag} {value:g}: must be a finite number, 0 or above")
        if not self.largest > 0:
            raise UsageError(f"--entropy-max {self.largest:g}: must be above 0")

    @property
    def coef_now(self) -> float:
        """The coefficient that the next loss has."""
        return self.coef if self.active else 0.0

    def begin_step(self, sampled_entropy: float) -> None:
        """A step begins; `sampled_entropy` is -mean log p of its tokens under the policy that drew them."""
        if self.control == "skywork":
            self._move(skywork, sampled_entropy)

    def after_optimizer_step(self, entropy: float) -> None:
        """An optimiser step is done; `entropy` is the mean over the tokens of its mini-batch."""
        if self.control == "trl":
            self._move(trl, entropy)

    def _move(self, rule: Callable[..., tuple[float, bool]], entropy: float) -> None:
        self.coef, self.active = rule(
            self.coef, entropy, target=self.target, delta=self.delta, low=0.0, high=self.largest
        )

    def facts(self) -> dict[str, float]:
        """What the next run continues with."""
        return {f"{self.control}_entropy_coef": self.coef, f"{self.control}_entropy_active": float(self.active)}

    def restore(self, facts: dict[str, float]) -> None:
        """Continue where this kind of control stopped; a fixed coefficient is what the command line says."""
        if self.control != "fixed" and f"{self.control}_entropy_coef" in facts:
            self.coef = float(facts[f"{self.control}_entropy_coef"])
            self.active = bool(facts[f"{self.control}_entropy_active"])
