"""Rollout dumps of other programs, one file each: from the records that they write to rows of our tables.

    from entropyctl.imports import import_rows, open_dumps, verl

    for step in import_rows(verl, open_dumps(["rollout_data/"])):
        print(step.number, step.rows.num_rows)

A format is a function of its file's name. It takes a `Dump`, one file of the other program, and yields a `Response`
for each response in it: `step`, `prompt_id` and the columns of the tables of responses that the dump has, the numbers
per token as arrays. What a dump does not say is None in all rows, or has no column; nothing is tokenised or guessed.
Keyword-only parameters are flags. Numbering the samples, putting rows of a prompt together and writing is not its part.
"""

from typing import TYPE_CHECKING

from entropyctl.registry import open_room

if TYPE_CHECKING:
    from entropyctl.imports._dump import Dump as Dump
    from entropyctl.imports._dump import open_dumps as open_dumps
    from entropyctl.imports._dump import origin_of as origin_of
    from entropyctl.imports._record import Record as Record
    from entropyctl.imports._rows import Response as Response
    from entropyctl.imports._rows import import_rows as import_rows
    from entropyctl.imports._rows import table_of as table_of
    from entropyctl.imports._rows import with_verdicts as with_verdicts
    from entropyctl.imports.nemo_rl import nemo_rl as nemo_rl
    from entropyctl.imports.prime_rl import prime_rl as prime_rl
    from entropyctl.imports.trl import trl as trl
    from entropyctl.imports.verl import verl as verl

# A format's help must not wait for Arrow: each is imported when it is first asked for.
_PARTS = {"Record": "_record"} | dict.fromkeys(("Dump", "open_dumps", "origin_of"), "_dump")
_PARTS |= dict.fromkeys(("Response", "import_rows", "table_of", "with_verdicts"), "_rows")
__getattr__, __all__ = open_room(__name__, _PARTS)
