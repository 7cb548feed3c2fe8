"""Prompts from Hugging Face data sets: `hf:OWNER/NAME?split=train`, or a directory that `save_to_disk` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from entropyctl.errors import InputError, UsageError
from entropyctl.table.paths import is_remote

SCHEME = "hf:"


def is_dataset(source: str) -> bool:
    """Whether a source is read through the package `datasets`."""
    if source.startswith(SCHEME):
        return True
    directory = Path(source)
    return not is_remote(source) and (
        (directory / "dataset_dict.json").is_file()
        or ((directory / "dataset_info.json").is_file() and (directory / "state.json").is_file())
    )


def rows(source: str) -> list[dict[str, Any]]:
    """Every row of a data set.

    Raises:
        UsageError: `datasets` is not installed, or the source does not say which split.
        InputError: the data set cannot be read.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{source}: needs the package datasets; pip install 'entropyctl[hub]'") from None
    datasets.disable_progress_bars()
    try:
        found = _from_hub(source, datasets) if source.startswith(SCHEME) else datasets.load_from_disk(source)
    except UsageError:
        raise
    except Exception as error:  # whatever the hub, the network or a damaged file raises
        raise InputError(f"{source}: cannot be loaded ({type(error).__name__}: {error}); check its name") from None
    if isinstance(found, dict):
        if len(found) != 1:
            example = f"{source.rstrip('/')}/{next(iter(found))}"
            raise UsageError(f"{source}: has the splits {', '.join(found)}; name one, as in {example}")
        found = next(iter(found.values()))
    return [dict(row) for row in found.to_list()]


def _from_hub(source: str, datasets: Any) -> Any:
    path, _, query = source.removeprefix(SCHEME).partition("?")
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    if unknown := set(options) - {"split", "name", "revision"}:
        raise UsageError(f"{source}: there is no option '{min(unknown)}'; known: split, name, revision")
    options = {key: unquote(value) for key, value in options.items()}
    return datasets.load_dataset(path, **{"split": "train", **options})
