"""What lies on the tokens of a step, and a mask laid over the masks that ran before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.masks._compiled import Array, Compiled
from entropyctl.table.columns import flat_values, values_or


class Laid(NamedTuple):
    """What lies on the `N` tokens of a step."""

    weights: Array | None  # None where every weight is 1
    kl_coefs: Array | None  # None where every coefficient is 0
    loss_mask: Array

    def pulling(self) -> Array:
        """`[N]` True where a token is counted and has a weight."""
        return self.loss_mask if self.weights is None else self.loss_mask & (self.weights != 0)

    def part(self, at: slice) -> Laid:
        """What lies on some of the tokens."""
        weights, kl_coefs = (None if part_N is None else part_N[at] for part_N in self[:2])
        return Laid(weights, kl_coefs, self.loss_mask[at])


def lay(before: Laid, compiled: Compiled) -> Laid:
    """A mask over those that ran before: weights multiply, penalties add, loss masks intersect."""
    weights, kl_coefs, loss_mask = before
    if compiled.weights is not None:
        weights = compiled.weights if weights is None else weights * compiled.weights
    if compiled.kl_coefs is not None:
        kl_coefs = compiled.kl_coefs if kl_coefs is None else kl_coefs + compiled.kl_coefs
    if compiled.loss_mask is not None:
        loss_mask = loss_mask & compiled.loss_mask
    return Laid(weights, kl_coefs, loss_mask)


def laid_on(rows: pa.Table) -> Laid:
    """What lies on the tokens of a step; a weight that was not computed is 1, a coefficient 0."""
    mask_N = flat_values(rows["loss_mask"]).astype(bool, copy=False)
    return Laid(_column(rows, "weights", 1.0), _column(rows, "kl_coefs", 0.0), mask_N)


def _column(rows: pa.Table, name: str, missing: float) -> Array | None:
    return values_or(rows, name, np.float32(missing)) if name in rows.column_names else None
