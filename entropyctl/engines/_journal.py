"""Responses kept beside a file that is still being sampled, so that an interrupted rollout goes on where it was."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from glob import escape
from pathlib import Path

import xxhash

from entropyctl.engines._sampling import Done, Request, Response, Sampler, Sampling, ignore
from entropyctl.errors import Locked
from entropyctl.table.atomic import cannot_write
from entropyctl.table.paths import is_remote, local_path


def has_room_beside(output: str | None) -> bool:
    """Whether a journal can lie beside an output, which it cannot where that is a stream or on another machine."""
    return output not in (None, "-") and not is_remote(local_path(str(output)))


class Journal:
    """Finished responses by key, one JSON line each, appended as they finish.

    A line is in the file, whatever becomes of the process, as soon as its response is finished; a line that a crash
    has cut is dropped.
    """

    def __init__(self, output: str, identity: Sequence[object]) -> None:
        """Open the journal of an output file, with what an earlier run of the same command left.

        Args:
            output: the file that is being made.
            identity: everything that decides the responses beside their keys; another one has a journal of its own.

        Raises:
            Locked: another process is making the same file.
            OutputError: the directory cannot be written.
        """
        self._output = Path(local_path(output))
        digest = xxhash.xxh3_64_hexdigest(repr(identity).encode())
        self.path = self._output.with_name(f".{self._output.name}.{digest}.part")
        try:
            # Unbuffered: nothing is left to be written, and to fail, when the process ends.
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the journal
        except OSError as error:
            raise cannot_write(output, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Locked(f"{output}: another rollout is making it; wait for its end, or name another file") from None
        self._found = self._read()

    def __len__(self) -> int:
        """How many responses there are."""
        return len(self._found)

    def _read(self) -> dict[str, Response]:
        self._file.seek(0)
        whole, _, cut = self._file.read().rpartition(b"\n")
        if cut:
            self._file.truncate(len(whole) + 1 if whole else 0)
        rows = (json.loads(line) for line in whole.splitlines())
        return {row["key"]: Response(row["tokens"], row["logprobs"], row["finish_reason"], row["text"]) for row in rows}

    def sampler(self, sample: Sampler, step: int) -> Sampler:
        """A sampler that asks for the missing responses of a step alone, and keeps each as it finishes."""

        def resumed(requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]:
            keys = [_key(step, request, sampling) for request in requests]
            missing = [i for i, key in enumerate(keys) if key not in self._found]
            if missing:
                sample([requests[i] for i in missing], sampling, lambda i, found: self._add(keys[missing[i]], found))
            return [self._found[key] for key in keys]

        return resumed

    def _add(self, key: str, response: Response) -> None:
        line = json.dumps({"key": key, **response._asdict()}).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._found[key] = response

    def close(self) -> None:
        """Leave the journal for the next run."""
        self._file.close()

    def remove(self) -> None:
        """The output is whole: no journal of it is of use any more."""
        self.close()
        for path in self._output.parent.glob(f".{escape(self._output.name)}.*.part"):
            path.unlink(missing_ok=True)


def _key(step: int, request: Request, sampling: Sampling) -> str:
    """What tells a response from all others of the run, its prompt's tokens included."""
    words = [step, request.prompt_id, request.sample, request.prompt_tokens, request.stop, sampling.greedy]
    return xxhash.xxh3_128_hexdigest(json.dumps(words).encode())
