"""What `inspect` is asked: conditions and quantities over a table's columns, `reward > 0 and abs(centred_s) > 1`.

Text becomes a tree, and a tree numbers; nothing of it is ever run as a program.
"""

from entropyctl.query.names import has_tokens
from entropyctl.query.reading import reading
from entropyctl.query.selection import Query, Selection, column, numbers_of_tokens, queries, query, select

__all__ = ["Query", "Selection", "column", "has_tokens", "numbers_of_tokens", "queries", "query", "reading", "select"]
