"""Which tables a report is made of: those of a run's directory, or those that were named."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from entropyctl.errors import InputError
from entropyctl.report.view import COLUMNS, MASKS
from entropyctl.table.header import Header
from entropyctl.table.parquet_source import ParquetSource
from entropyctl.table.rows import Rows, read_rows
from entropyctl.table.schema import KEY
from entropyctl.table.source import open_argument

STEP = re.compile(r"step-\d+")
SHARD = re.compile(r"shard-\d+-of-\d+\.parquet")
METRICS, EVALS, POLICY = "metrics", "evals", "policy"
NOT_OF_RESPONSES = ("metrics", "evals", "laws", "prompts")


@dataclass
class Found:
    """The tables, and in words what was left out."""

    name: str
    metrics: list[Rows] = field(default_factory=list)
    evals: list[Rows] = field(default_factory=list)
    responses: list[list[str]] = field(default_factory=list)  # paths of each list are laid over one another by key
    rows: int = 0  # of these, as far as the files say
    tokenizer: Path | None = None  # directory of the run's own
    notes: list[str] = field(default_factory=list)

    @property
    def small(self) -> list[Rows]:
        """The tables that are read whole."""
        return [*self.metrics, *self.evals]


class Table(NamedTuple):
    """A table of responses in a run's directory."""

    path: str
    header: Header
    columns: frozenset[str]  # those that a report uses, without the key
    rows: int

    @property
    def id(self) -> str:
        """Of the record that made it."""
        return self.header.chain[-1]["id"] if self.header.chain else ""

    @property
    def ids(self) -> set[str]:
        """Of all records of its chain."""
        return {record["id"] for record in self.header.chain}

    def contradicts(self, other: Table) -> frozenset[str]:
        """The columns in which it says otherwise than one that was not made from it, nor it from that one.

        What masks leave is one thing in several columns, of which a file has those that its masks have touched.
        """
        if other.id in self.ids or self.id in other.ids:
            return frozenset()
        masks = frozenset(MASKS if self.columns & set(MASKS) and other.columns & set(MASKS) else ())
        return self.columns & other.columns | (self.columns | other.columns) & masks


def find(paths: Sequence[str], allow: tuple[str, ...] = ()) -> Found:
    """What the arguments of `entropyctl report` stand for.

    A directory that holds `metrics/`, `policy/` or `step-*/` is a run. All other tables of responses are laid over one
    another in the order given.

    Raises:
        InputError: there is nothing to report, or a table is damaged.
    """
    if sum(map(is_run, paths)) > 1:
        raise InputError(f"{' + '.join(paths)}: are several runs; a report is of one")
    found = Found(" + ".join(Path(path).resolve().name if is_run(path) else Path(path).name for path in paths))
    named: list[str] = []
    for path in paths:
        if is_run(path):
            _add_run(found, Path(path))
        elif path == "-":
            named.append(path)
        elif (kind := (table := _looked_at(path)).header.table) in (METRICS, EVALS):
            (found.metrics if kind == METRICS else found.evals).append(read_rows(path, allow))
        elif kind in NOT_OF_RESPONSES:
            raise InputError(
                f"{path}: is a table of {kind}; a report is made of metrics, evals and tables of responses"
            )
        else:
            found.rows = found.rows or table.rows
            named.append(path)
    if named:
        found.responses.append(named)
    if not (found.small or found.responses):
        raise InputError(f"{' + '.join(paths)}: holds no metrics, evals or responses; name a run or its tables")
    return found


def is_run(path: str) -> bool:
    """Whether a path is the directory of a run, as the loop makes it."""
    place = Path(path)
    return place.is_dir() and (
        (place / METRICS).is_dir() or os.path.lexists(place / POLICY / "latest") or any(_steps(place))
    )


def _looked_at(path: str) -> Table:
    entry = open_argument(path)
    entry.reader.close()
    files = entry.reader.files if isinstance(entry.reader, ParquetSource) else []
    rows = sum(int(file.end.get("rows") or 0) for file in files)
    return Table(path, entry.header, frozenset(entry.schema.names) & set(COLUMNS) - set(KEY), rows)


def _steps(run: Path) -> list[Path]:
    return sorted(place for place in run.iterdir() if place.is_dir() and STEP.fullmatch(place.name))


def _add_run(found: Found, run: Path) -> None:
    if (run / POLICY / "latest" / "tokenizer.json").is_file():
        found.tokenizer = run / POLICY / "latest"
    metrics = read_rows(str(run / METRICS)) if any((run / METRICS).glob("*.parquet")) else None
    found.metrics += [metrics] if metrics else []
    tables: list[Table] = []
    for path in [place for folder in (run, *_steps(run), run / EVALS) for place in _tables_in(folder)]:
        table = _looked_at(path)
        if table.header.table == EVALS:
            found.evals.append(read_rows(path))
        elif table.header.table not in NOT_OF_RESPONSES and table.columns:
            tables.append(table)
    trained = {record["id"] for record in metrics.header.chain} if metrics else set()
    for group in _families(tables):
        if trained and not any(table.ids & trained for table in group):
            found.notes.append(
                f"not of a step in {METRICS}/, left out: {', '.join(_short(t.path, run) for t in group)}"
            )
            continue
        kept, dropped = together(group, trained)
        found.responses.append([table.path for table in kept])
        found.rows += kept[0].rows
        found.notes += [
            f"{_short(table.path, run)} left out: {_short(other.path, run)} holds other {columns} of the same rows; "
            "name the files that you want"
            for table, other, columns in dropped
        ]


def _tables_in(folder: Path) -> list[str]:
    """Parquet files, and directories of shards, in the order of their names."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    visible = [place for place in places if not place.name.startswith((".", "_"))]
    return [
        str(place)
        for place in visible
        if (place.is_file() and place.suffix == ".parquet")
        or (place.is_dir() and any(SHARD.fullmatch(inner.name) for inner in place.iterdir()))
    ]


def _families(tables: list[Table]) -> list[list[Table]]:
    """Tables that were made from the same rollouts stand together, in the order in which they were made."""
    families: list[tuple[set[str], list[Table]]] = []
    for table in sorted(tables, key=lambda t: (len(t.header.chain), t.path)):
        ids = table.ids
        home = next((family for family in families if family[0] & ids), None)
        if home is None:
            families.append((ids, [table]))
        else:
            home[0].update(ids)
            home[1].append(table)
    return sorted((family for _, family in families), key=lambda family: family[0].path)


def together(family: list[Table], trained: set[str]) -> tuple[list[Table], list[tuple[Table, Table, str]]]:
    """The tables of one rollout that go together, and those that say otherwise of the same rows.

    What the update read comes first; another table joins where no column of it is in one that it was not made from.

    Args:
        family: in the order in which they were made.
        trained: records in the chains of the metrics.

    Returns:
        Those that are laid over one another, in order; and each other one with a table and the columns that it
        disagrees with.
    """
    kept: list[Table] = []
    dropped: list[tuple[Table, Table, str]] = []
    for table in sorted(family, key=lambda t: t.id not in trained):
        rival = next((other for other in kept if table.contradicts(other)), None)
        if rival is None:
            kept.append(table)
        else:
            dropped.append((table, rival, ", ".join(sorted(table.contradicts(rival)))))
    return [table for table in family if table in kept], dropped


def _short(path: str, run: Path) -> str:
    return str(Path(path).relative_to(run))
