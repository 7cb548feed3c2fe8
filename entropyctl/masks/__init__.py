"""Entropy-control methods, one file each: pure functions from token statistics to numbers per token.

    from entropyctl.masks import clip_v
    compiled = clip_v(s_star, expected_s, advantages, loss_mask, mu=8.5)

Positional parameters are flat columns `[N]`; keyword parameters are the method's own. `apply_mask` runs one
on the rows of a table.
"""

from typing import TYPE_CHECKING

from entropyctl.registry import open_room

if TYPE_CHECKING:
    from entropyctl.masks._apply import apply_mask as apply_mask
    from entropyctl.masks._apply import compile_mask as compile_mask
    from entropyctl.masks._apply import lay_over as lay_over
    from entropyctl.masks._compiled import Compiled as Compiled
    from entropyctl.masks._summary import MaskSummary as MaskSummary

# A method's function stands here under its file's name, so that a new file is all it takes. Nothing is imported
# before it is asked for: a method's help must not wait for numpy.
_PARTS = {"Compiled": "_compiled", "MaskSummary": "_summary"}
_PARTS |= dict.fromkeys(("apply_mask", "compile_mask", "lay_over"), "_apply")
__getattr__, __all__ = open_room(__name__, _PARTS)
