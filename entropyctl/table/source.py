"""Reading tables: any number of inputs, laid over one another by key, step by step.

with read(["scored.parquet", "masks.parquet"], columns=["logprobs", "weights"]) as source:
    for step in source:
        step.number, step.rows
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import TracebackType
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from entropyctl.ahead import ahead
from entropyctl.ending import WriterGone
from entropyctl.errors import InputError, StreamEndedEarly, UsageError, one_line
from entropyctl.table.activity import Activity, behind
from entropyctl.table.arrow_file import ArrowFile
from entropyctl.table.columns import count_tokens
from entropyctl.table.conform import check_keys, check_lengths, check_names, check_nulls_in_lists, check_values, conform
from entropyctl.table.header import Context, Header, Record, check_allowed, merge_contexts
from entropyctl.table.overlay import Overlay, check_related
from entropyctl.table.parquet_source import MOST_OPEN_FILES, GroupedFile, ParquetSource, open_parquet
from entropyctl.table.paths import ARROW_FILE_MAGIC, PARQUET_MAGIC, STREAM_MAGIC, expand, is_remote, open_input
from entropyctl.table.provenance import merge_chains, unknown_record
from entropyctl.table.schema import KEY, known_column
from entropyctl.table.stream_source import StreamSource


class Step(NamedTuple):
    """The rows of one training step."""

    number: int
    rows: pa.Table


class Input(NamedTuple):
    """One input argument, opened."""

    path: str
    reader: StreamSource | ParquetSource
    schema: pa.Schema
    of_files: Header | None = None

    @property
    def header(self) -> Header:
        """What the input says of itself; of a stream, complete only after its end."""
        if isinstance(self.reader, StreamSource):
            return self.reader.header
        return self.of_files or Header()


def _header_of_files(files: Sequence[GroupedFile], allow: tuple[str, ...], mismatches: list[Record]) -> Header:
    headers = [(f.path, f.header) for f in files]
    chains = [h.chain if h else [unknown_record(path)] for path, h in headers]
    table = next((h.table for _, h in headers if h), None)
    context = merge_contexts([(path, h.context) for path, h in headers if h], allow, allowed=mismatches)
    return Header(table, context, merge_chains(chains))


def notice(text: str) -> None:
    """One line for people."""
    print(f"entropyctl: {one_line(text)}", file=sys.stderr)


def open_argument(
    path: str, stdin: BinaryIO | None = None, allow: tuple[str, ...] = (), mismatches: list[Record] | None = None
) -> Input:
    """Open one input argument.

    Args:
        path: a file, a directory, a glob, or "-" for a stream on standard input.
        stdin: the stream that "-" means; the process's standard input by default.
        allow: fields of the context on which the files of a directory may disagree.
        mismatches: receives each difference that was allowed.

    Raises:
        InputError: it is missing or damaged.
        MismatchError: the files of a directory do not belong together.
        UsageError: standard input is a terminal.
    """
    mismatches = [] if mismatches is None else mismatches
    if path == "-":
        if stdin is None and sys.stdin.isatty():
            raise UsageError("no input; name a file, or pipe the stage before this one into it")
        stream = StreamSource(stdin or sys.stdin.buffer, "standard input")
        return Input("-", stream, stream.schema)
    paths = expand(path)
    if len(paths) == 1 and not is_remote(paths[0]):
        with open_input(paths[0]) as raw:
            head = raw.read(6)
        if head.startswith(STREAM_MAGIC):
            stream = StreamSource(open(paths[0], "rb"), path, owned=True)  # noqa: SIM115
            return Input(path, stream, stream.schema)
        if head.startswith(ARROW_FILE_MAGIC):
            return _input_of_files(path, [ArrowFile(paths[0])], allow, mismatches)
        if not head.startswith(PARQUET_MAGIC):
            what = "is empty" if not head else "is neither Parquet nor Arrow"
            raise InputError(f"{path}: {what}; name a table that entropyctl or another Parquet writer made")
    files = [open_parquet(file, keep_open=len(paths) <= MOST_OPEN_FILES) for file in paths]
    return _input_of_files(path, files, allow, mismatches)


@cache
def _say_foreign(path: str) -> None:
    """Once, however often a command opens a file."""
    notice(f"{path}: written by another program; its history starts as unknown")


def _input_of_files(path: str, files: Sequence[GroupedFile], allow: tuple[str, ...], mismatches: list[Record]) -> Input:
    for file in files:
        if file.header is None:
            _say_foreign(file.path)
    schema = common_schema(files)
    return Input(path, ParquetSource(files, []), schema, _header_of_files(files, allow, mismatches))


def common_schema(files: Sequence[GroupedFile]) -> pa.Schema:
    """Columns and types of the files of one table.

    Raises:
        InputError: they have different columns, or two of one name.
    """
    first = files[0]
    for other in files[1:]:
        if sorted(other.schema.names) != sorted(first.schema.names):
            odd = sorted(set(other.schema.names) ^ set(first.schema.names))
            raise InputError(
                f"{other.path}: its columns differ from those of {first.path} ({', '.join(odd)}); "
                "the files of a table must have the same columns"
            )
    return first.schema


class Source:
    """Opened inputs as one table. Iterating gives every `Step` once."""

    def __init__(
        self,
        paths: Sequence[str] = ("-",),
        columns: Sequence[str] | None = None,
        needs: Sequence[str] = (),
        allow_mismatch: tuple[str, ...] = (),
        stdin: BinaryIO | None = None,
        overlap: bool = False,
    ) -> None:
        """Open the inputs.

        Args:
            paths: files, directories, globs, or "-" for a stream on standard input; later ones are laid
                over the first by key.
            columns: the columns to read, beside the key; None reads all.
            needs: columns that must be there.
            allow_mismatch: fields of the context, or groups of them, on which the inputs may disagree.
            stdin: the stream that "-" means; the process's standard input by default.
            overlap: read a step of a file while the one before it is in use. Of a stream the program that writes it
                is a step ahead anyway.

        Raises:
            InputError: an input is missing, damaged, or lacks a column.
            MismatchError: the inputs do not belong together.
            StreamEndedEarly: the stream is empty.
            UsageError: there is no input, or none has a field of `allow_mismatch`.
        """
        if list(paths).count("-") > 1:
            raise UsageError("only one input can be standard input; write the other to a file")
        if not paths:
            raise UsageError("no input; name a file, or pipe the stage before this one into it")
        self.allow_mismatch, self._overlap = allow_mismatch, overlap
        self._stop: Callable[[], None] = lambda: None
        self.activity = Activity()
        self.mismatches: list[Record] = []
        self.inputs = [open_argument(path, stdin, allow_mismatch, self.mismatches) for path in paths]
        for entry in self.inputs:
            check_names(entry.schema, entry.path)
        check_related([(i.path, i.header) for i in self.inputs])
        self._merged: list[Context] = []
        self.context: Context = {}
        self._learn()
        check_allowed(allow_mismatch, self._merged)
        self._needs = tuple(needs)
        self._owner = self._owners()
        check_needs(self.path, list(self._owner), needs)
        self.keep(columns)

    def keep(self, columns: Sequence[str] | None) -> None:
        """Read these columns, beside the key and those that are needed, and no others; before the first step is read.

        Args:
            columns: their names; None is all.

        Raises:
            InputError: one of them has a type that cannot mean what the contract says.
        """
        kept = (*(self._owner if columns is None else columns), *KEY, *self._needs)
        self.columns = [name for name in self._owner if name in kept]
        self._project()
        fields = [conform(self._field(name), self.path, self.table) for name in self.columns]
        self.schema = pa.schema(fields)

    @property
    def available(self) -> pa.Schema:
        """Every column that the inputs have, read or not, with the type that it has there."""
        return pa.schema([self._field(name) for name in self._owner])

    def _learn(self) -> None:
        """Take over what the inputs know of their context by now; a stream learns with every step.

        Raises:
            MismatchError: the inputs disagree.
        """
        contexts = [i.header.context for i in self.inputs]
        if contexts != self._merged:
            allowed: list[Record] = []
            named = [(i.path, context) for i, context in zip(self.inputs, contexts, strict=True)]
            self.context = merge_contexts(named, self.allow_mismatch, allowed=allowed)
            self.mismatches += [one for one in allowed if one not in self.mismatches]
            self._merged = contexts

    def _owners(self) -> dict[str, int]:
        """For each column the last input that has it."""
        owner: dict[str, int] = {}
        for index, entry in enumerate(self.inputs):
            for name in entry.schema.names:
                if index == 0 or name not in KEY:
                    owner[name] = index
        return owner

    def _field(self, name: str) -> pa.Field:
        return self.inputs[self._owner[name]].schema.field(name)

    def _project(self) -> None:
        for index, entry in enumerate(self.inputs):
            own = self._owned(index)
            if isinstance(entry.reader, ParquetSource):
                keys = [k for k in KEY if k in entry.schema.names and k not in own]
                entry.reader.columns = [n for n in entry.schema.names if n in own or n in keys]

    @property
    def path(self) -> str:
        """The inputs' names, for messages."""
        return " + ".join("standard input" if i.path == "-" else i.path for i in self.inputs)

    @property
    def table(self) -> str | None:
        """The furthest table among the inputs; None when another program wrote them all."""
        tables = [i.header.table for i in self.inputs if i.header.table]
        return tables[-1] if tables else None

    @property
    def temperature(self) -> float:
        """The temperature that the rows were sampled with; 1, with a notice, where the inputs do not say."""
        sampling = self.context.get("sampling", {})
        if "temperature" not in sampling:
            notice(f"{self.path}: does not say at which temperature it was sampled; taking 1")
        return float(sampling.get("temperature", 1.0))

    @property
    def chain(self) -> list[Record]:
        """All records of all inputs; of a stream, complete only after its end."""
        return merge_chains([i.header.chain for i in self.inputs])

    def chain_of(self, column: str) -> list[Record]:
        """The records of the file that a column is taken from; none where no input has it."""
        return self.inputs[self._owner[column]].header.chain if column in self._owner else []

    def origins(self, rows: int) -> list[dict[str, object]]:
        """What a record of provenance says of the inputs, after `rows` rows were read of the first."""
        found: list[dict[str, object]] = []
        for index, entry in enumerate(self.inputs):
            origin: dict[str, object] = {"path": entry.path, "records": [r["id"] for r in entry.header.chain[-1:]]}
            if isinstance(entry.reader, StreamSource):
                origin["digest"] = entry.reader.end.get("digest")
            else:
                origin["digest"] = ",".join(str(f.end.get("digest", "unknown")) for f in entry.reader.files)
            if index == 0:
                origin["rows"] = rows
            found.append(origin)
        return found

    def __iter__(self) -> Iterator[Step]:
        base, *others = self.inputs
        own = self._owned(0)
        overlays = [
            Overlay(entry.path, entry.reader, entry.header, base.header, entry.schema, self._owned(index))
            for index, entry in enumerate(others, start=1)
        ]
        self.activity.doing("reads")
        for number, rows in self._steps():
            self.activity.doing("computes", step=number)
            tokens = count_tokens(rows) if self.activity.on else 0
            rows = rows.select(own)
            for overlay in overlays:
                rows = overlay.apply(number, rows)
            self._learn()
            yield Step(number, self._checked(rows.select(self.columns)))
            self.activity.finished(tokens)
            self.activity.doing("reads")
        self.activity.doing("ends")
        for overlay in overlays:
            overlay.finish()
        self._learn()

    def _steps(self) -> Iterator[tuple[int, pa.Table]]:
        reader = self.inputs[0].reader
        if not self._overlap or not isinstance(reader, ParquetSource):
            return reader.steps()
        steps = ahead(reader.steps())
        self._stop = steps.close
        return steps

    def _owned(self, index: int) -> list[str]:
        return [n for n in self.columns if self._owner[n] == index]

    def _checked(self, rows: pa.Table) -> pa.Table:
        check_nulls_in_lists(rows, self.path, self.table)
        if rows.schema != self.schema:
            try:
                rows = rows.cast(self.schema)
            except (pa.ArrowException, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise InputError(f"{self.path}: a value does not fit the type of its column ({reason})") from None
        check_keys(rows, self.path)
        check_lengths(rows, self.path)
        check_values(rows, self._needs, self.path, self.table)
        return rows

    def __enter__(self) -> Source:
        for entry in self.inputs:
            if isinstance(entry.reader, StreamSource):
                entry.reader.watch()
        if self.inputs[0].path == "-":
            self.activity = behind(self.inputs[0].header.chain)
        self.activity.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()
        for entry in self.inputs:
            entry.reader.close()
        self.activity.__exit__(kind, error, tb)
        if isinstance(error, WriterGone):
            raise StreamEndedEarly(
                "standard input: the stage before this one died while its last step was at work here, which is "
                "abandoned; see its message"
            ) from None


read = Source


def check_needs(path: str, have: Sequence[str], needs: Sequence[str]) -> None:
    """Stop where a column is missing that a stage needs.

    Raises:
        InputError: names the column and the stage that makes it.
    """
    for name in needs:
        if name not in have:
            column = known_column(name)
            maker = f"it is made by `entropyctl {column.made_by}`" if column else "no stage of entropyctl makes it"
            raise InputError(f"{path}: column '{name}' is missing; {maker}")
