"""The files of a dump, in order of their steps, and their records: lines of JSON or rows of Parquet."""

from __future__ import annotations

import glob
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import xxhash

from entropyctl.errors import InputError
from entropyctl.imports._record import Record
from entropyctl.table import notice
from entropyctl.table.parquet_source import open_parquet
from entropyctl.table.paths import PARQUET_MAGIC, expand, local_path, open_input

# What is taken out of a directory; a file that is named is read whatever it is called.
ENDINGS = (".jsonl", ".ndjson", ".parquet")


class Dump:
    """One file that another program wrote."""

    def __init__(self, path: str, announce: Callable[[str], None] = notice) -> None:
        """Name it; nothing is read yet.

        Args:
            path: the file.
            announce: is told what a person should know, once for a whole import.
        """
        self.path, self.announce = path, announce
        self.digest = xxhash.xxh3_128()

    @property
    def step(self) -> int | None:
        """The step in its name or in that of a directory above it, as `step_12` or `train_data_step12.jsonl`."""
        found = re.findall(r"step[_-]?(\d+)", self.path)
        return int(found[-1]) if found else None

    def records(self) -> Iterator[Record]:
        """Its records, one at a time where it is JSON; a file is Parquet by its first bytes.

        Raises:
            InputError: a line is not JSON, or holds something else than an object; names the line.
        """
        with open_input(self.path) as raw:
            parquet = raw.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        yield from self._rows() if parquet else self._lines()

    def beside(self, name: str) -> Dump | None:
        """The file `name` in the same directory, which counts as a part of this one; None where there is none."""
        path = str(PurePosixPath(self.path).parent / name)
        try:
            found = Dump(expand(path)[0], self.announce)
        except InputError:
            return None
        found.digest = self.digest
        return found

    def _rows(self) -> Iterator[Record]:
        with open_input(self.path) as raw:
            for block in iter(lambda: raw.read(1 << 20), b""):
                self.digest.update(block)
        number, file = 0, open_parquet(self.path)
        try:
            for index in range(file.groups):
                for row in file.row_groups([index], file.schema.names).to_pylist():
                    number += 1
                    yield Record(self.path, f"row {number}", row)
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"{self.path}: has values that cannot be read ({error}); make it again") from None
        finally:
            file.close()

    def _lines(self) -> Iterator[Record]:
        with open_input(self.path) as raw, io.BufferedReader(raw) as lines:
            for number, line in enumerate(lines, start=1):
                self.digest.update(line)
                if text := line.strip():
                    yield Record(self.path, f"line {number}", _parsed(text, f"{self.path}: line {number}"))


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8 text; name a dump, or mend the line") from None
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or a number too long"
        raise InputError(f"{where} is not JSON ({reason}); mend or delete the line") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} is no JSON object; name a dump with one object in each line")
    return value


def open_dumps(paths: list[str], announce: Callable[[str], None] = notice) -> list[Dump]:
    """The files behind the arguments, in order of the numbers in their names, so that step 2 comes before step 10.

    Args:
        paths: files, globs, or directories, out of which files that end in `.jsonl`, `.ndjson` or `.parquet` are taken.
        announce: is told what a person should know; no text twice.

    Raises:
        InputError: there is no such file, or a directory has none of that kind.
    """
    told: set[str] = set()

    def once(text: str) -> None:
        if text not in told:
            told.add(text)
            announce(text)

    files = dict.fromkeys(file for path in paths for file in _files(path))
    return [Dump(file, once) for file in sorted(files, key=_numbers_in)]


def origin_of(dumps: Sequence[Dump]) -> dict[str, Any]:
    """What a record of provenance says of dumps that have been read: where they lie, and a digest of them all."""
    digest = xxhash.xxh3_128(b"".join(dump.digest.digest() for dump in dumps))
    return {
        "path": os.path.commonpath([dump.path for dump in dumps]),
        "files": len(dumps),
        "digest": digest.hexdigest(),
    }


def _files(path: str) -> list[str]:
    found = expand(path)
    if found == [local_path(path)] or glob.has_magic(path):
        return found
    if not (chosen := [file for file in found if file.endswith(ENDINGS)]):
        raise InputError(f"{path}: holds no file that ends in {', '.join(ENDINGS)}; name the files")
    return chosen


def _numbers_in(path: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
