"""Entropy-control methods, one file each: pure functions from token statistics to numbers per token.

    from entropyctl.masks import clip_v
    compiled = clip_v(s_star, expected_s, advantages, loss_mask, mu=8.5)

Positional parameters are flat columns `[N]`; keyword parameters are the method's own. `apply_mask` runs one
on the rows of a table.
"""

from importlib import import_module
from pathlib import Path

from entropyctl.masks._apply import MaskSummary, apply_mask
from entropyctl.masks._compiled import Compiled

__all__ = ["Compiled", "MaskSummary", "apply_mask"]

# A method's function stands here under its file's name, so that a new file is all it takes.
for _path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    globals()[_path.stem] = getattr(import_module(f"{__name__}.{_path.stem}"), _path.stem)
    __all__ += [_path.stem]
