"""Where bytes come from: local files, globs and directories, and remote places through Arrow's file systems."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from entropyctl.errors import InputError

PARQUET_MAGIC = b"PAR1"
ARROW_FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"


def is_remote(path: str) -> bool:
    """Whether a path names a file system by a scheme: `s3://bucket/key`, `gs://...`, `memory://...`."""
    return "://" in path


def local_path(path: str) -> str:
    """`file:///a/b` as `/a/b`, which is then treated like any local file; every other path as it is."""
    return unquote(path.removeprefix("file://")) if path.startswith("file:///") else path


def filesystem_of(path: str) -> tuple[fs.FileSystem, str]:
    """The file system that a path lives on, and the path within it.

    Arrow's own file systems serve `file`, `s3`, `gs`, `abfs` and `hdfs`; any other scheme goes through
    fsspec, where that is installed.

    Raises:
        InputError: nothing here knows the scheme.
    """
    if not is_remote(path):
        return fs.LocalFileSystem(), path
    scheme, _, rest = path.partition("://")
    try:
        return fs.FileSystem.from_uri(path)
    except (ValueError, NotImplementedError, OSError):
        pass
    try:
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), rest
    except (ImportError, ValueError):
        raise InputError(f"{path}: no file system is known for '{scheme}://'; install fsspec and its driver") from None


def expand(path: str) -> list[str]:
    """The files behind one input argument: the file itself, what a glob matches, or a directory's Parquet files.

    In a directory, names that begin with `.` or `_` are left out (temporary files, `_SUCCESS`).

    Raises:
        InputError: there is no such file, or the directory holds none.
    """
    path = local_path(path)
    if is_remote(path):
        return _expand_remote(path)
    if os.path.isdir(path):
        found = sorted(str(p) for p in Path(path).rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
        if not found:
            raise InputError(f"{path}: the directory holds no Parquet file; name one that does")
        return found
    if os.path.exists(path):
        return [path]
    if glob.has_magic(path):
        if matched := sorted(glob.glob(path, recursive=True)):
            return [file for match in matched for file in expand(match)]
        raise InputError(f"{path}: no file matches; check the pattern")
    raise InputError(f"{path}: no such file; check the path")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _expand_remote(path: str) -> list[str]:
    filesystem, inner = filesystem_of(path)
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.File:
        return [path]
    if info.type == fs.FileType.Directory:
        selector = fs.FileSelector(inner, recursive=True)
        children = [i for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File]
        root = path.removesuffix(inner)
        if found := sorted(root + i.path for i in children if not i.base_name.startswith((".", "_"))):
            return found
        raise InputError(f"{path}: the directory holds no Parquet file; name one that does")
    raise InputError(f"{path}: no such file; check the path")


def open_input(path: str) -> Any:
    """The file, open for reading at random.

    Raises:
        InputError: it cannot be opened.
    """
    filesystem, inner = filesystem_of(path)
    try:
        # Bytes, because a name that is no UTF-8 is a name all the same.
        return filesystem.open_input_file(inner) if is_remote(path) else pa.OSFile(os.fsencode(path), "rb")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None
