"""Entropy-controlled reinforcement fine-tuning, as programs that read and write one kind of table."""

from pathlib import Path

from entropyctl.version import __version__

__all__ = ["__version__"]

# In a bare checkout stages/ and schemas/ stand beside this folder; an installed wheel has them inside it.
# Looking beside makes `python -m entropyctl` and worker processes work where nothing was installed.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "stages" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
