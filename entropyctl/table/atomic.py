"""Files that are whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

from entropyctl.errors import OutputError
from entropyctl.table.paths import filesystem_of, is_remote


def cannot_write(path: str | Path, error: OSError) -> OutputError:
    """The one message for an output that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full; free some space (a file that was there before is intact)")
    reason = error.strerror or str(error)
    return OutputError(f"{path}: cannot be written ({reason}); choose another place or mend its permissions")


def sync_directory(path: Path) -> None:
    """Make a rename in this directory last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicFile:
    """A file under a temporary name in the directory of its final one, until `commit`.

    The temporary name begins with a dot, so that a table read from the directory does not see it.

    Raises:
        OutputError: by any method, when the file system refuses.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._remote = filesystem_of(path) if is_remote(path) else None
        parent, _, name = path.rpartition("/")
        self._temporary = (
            f"{parent}/.{name}.{os.getpid()}.tmp" if parent or path.startswith("/") else f".{name}.{os.getpid()}.tmp"
        )
        self.file: Any = self._open()

    def _open(self) -> BinaryIO | Any:
        try:
            if self._remote:
                filesystem, _ = self._remote
                return filesystem.open_output_stream(filesystem_of(self._temporary)[1])
            return open(self._temporary, "xb")
        except FileExistsError:
            os.unlink(self._temporary)  # left by a process of our number that was killed
            return open(self._temporary, "xb")
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def commit(self) -> None:
        """Make the bytes durable, then visible under the final name."""
        try:
            self.file.flush()
            if self._remote:
                self.file.close()
                filesystem, inner = self._remote
                filesystem.move(filesystem_of(self._temporary)[1], inner)
                return
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._temporary, self.path)
            sync_directory(Path(self.path).absolute().parent)
        except OSError as error:
            self.abort()
            raise cannot_write(self.path, error) from None

    def abort(self) -> None:
        """Throw the bytes away; whatever stood under the final name stays."""
        try:
            self.file.close()
        except OSError:
            pass  # a full disk says so again when the last buffer is flushed
        if self._remote:
            filesystem, _ = self._remote
            filesystem.delete_file(filesystem_of(self._temporary)[1])
        elif os.path.exists(self._temporary):
            os.unlink(self._temporary)
