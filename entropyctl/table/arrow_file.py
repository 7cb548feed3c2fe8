"""Arrow IPC files (the random-access form), which only other programs write, as a source of steps."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.table.parquet_source import ParquetFile, ParquetSource, damaged


def open_arrow_file(path: str) -> ParquetSource:
    """Read an Arrow file whole, and serve it as a Parquet file of another program would be.

    Raises:
        InputError: the bytes are damaged.
    """
    try:
        with pa.memory_map(path) as raw, pa.ipc.open_file(raw) as reader:
            rows = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(None), buffer, compression="none", use_dictionary=False)
    buffer.seek(0)
    return ParquetSource([ParquetFile(path, pq.ParquetFile(buffer), None, {})], [])
