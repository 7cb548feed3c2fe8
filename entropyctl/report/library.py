"""The library that draws: plotly.js, out of its Python package, with its licence."""

from __future__ import annotations

import importlib.util
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple


class Library(NamedTuple):
    """A script that a page can hold."""

    name: str
    script: str
    licence: str


def plotly() -> Library:
    """plotly.js, MIT.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly", name="plotly")
    script = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    package = distribution("plotly")
    licences = [file for file in package.files or [] if file.name.upper().startswith("LICENSE")]
    licence = "\n".join(file.read_text(encoding="utf-8") for file in licences)
    first = script[:400].partition("*/")[0]
    version = next((word for word in first.split() if word.startswith("v") and word[1:2].isdigit()), "")
    return Library(f"plotly.js {version}".strip(), script, licence)
