"""Files that are whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from entropyctl.errors import OutputError
from entropyctl.table.paths import filesystem_of, is_remote, local_path


def cannot_write(path: str | Path, error: OSError) -> OutputError:
    """The one message for an output that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full; free some space (a file that was there before is intact)")
    reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
    return OutputError(f"{path}: cannot be written ({reason}); choose another place or mend its permissions")


def make_directory(path: str) -> None:
    """Make a directory for outputs, with its parents, unless it is there.

    Raises:
        OutputError: the file system refuses.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def sync_directory(path: Path) -> None:
    """Make a rename in this directory last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicFile:
    """A file under a temporary name in the directory of its final one, until `publish`.

    The temporary name begins with a dot, so that a table read from the directory does not see it. A link is
    followed, so that its target is replaced. What is no regular file (`/dev/null`, a named pipe) has no old
    bytes to keep and is written as it stands.

    Raises:
        OutputError: by any method, when the file system refuses.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._remote = filesystem_of(path)[0] if is_remote(local_path(path)) else None
        self._final = path if self._remote else os.path.realpath(local_path(path))
        parent, _, name = self._final.rpartition("/")
        self._temporary = f"{parent}/.{name[:80]}.{uuid.uuid4().hex[:12]}.tmp"
        if not self._remote and os.path.exists(self._final) and not os.path.isfile(self._final):
            if os.path.isdir(self._final):
                raise cannot_write(path, IsADirectoryError(errno.EISDIR, ""))
            self._temporary = self._final
        self.file: Any = None

    def open(self) -> None:
        """Make the temporary file; from now on `abort` is owed, even when a signal ends this very call."""
        try:
            if self._remote:
                self.file = self._remote.open_output_stream(filesystem_of(self._temporary)[1])
            else:
                self.file = open(self._temporary, "wb")  # noqa: SIM115
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def settle(self) -> None:
        """Make the bytes durable, under the temporary name."""
        try:
            self.file.flush()
            if not self._remote and self._temporary != self._final:
                os.fsync(self.file.fileno())
            self.file.close()
        except OSError as error:
            self.abort()
            raise cannot_write(self.path, error) from None

    def publish(self) -> None:
        """Make the settled bytes visible under the final name."""
        try:
            if self._remote:
                self._remote.move(filesystem_of(self._temporary)[1], filesystem_of(self._final)[1])
            elif self._temporary != self._final:
                os.replace(self._temporary, self._final)
                sync_directory(Path(self._final).parent)
        except OSError as error:
            self.abort()
            raise cannot_write(self.path, error) from None

    def abort(self) -> None:
        """Throw the bytes away; whatever stood under the final name stays."""
        with suppress(OSError):  # a full disk says so again when the last buffer is flushed
            if self.file is not None:
                self.file.close()
        with suppress(OSError):  # nothing there to remove
            if self._remote:
                self._remote.delete_file(filesystem_of(self._temporary)[1])
            elif self._temporary != self._final:
                os.unlink(self._temporary)


def write_text(path: str, text: str) -> None:
    """Write a whole text file, or leave what stood there.

    Raises:
        OutputError: the file system refuses.
    """
    file = AtomicFile(path)
    file.open()
    try:
        file.file.write(text.encode())
        file.settle()
    except OSError as error:
        file.abort()
        raise cannot_write(path, error) from None
    except BaseException:
        file.abort()
        raise
    file.publish()
