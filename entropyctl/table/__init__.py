"""The contract at work: reading and writing the tables of schemas/, at rest and in a pipe.

Nothing else in entropyctl opens a table.
"""

from entropyctl.table.provenance import again, new_record
from entropyctl.table.sink import Sink, write
from entropyctl.table.source import Source, Step, check_needs, notice, read

__all__ = ["Sink", "Source", "Step", "again", "check_needs", "new_record", "notice", "read", "write"]
