"""How many records an unreadable landed file stands for: the weight of its one dead letter in the counts.

If a file of a million lines counted as one record, it would hide behind any failure budget. The rule:

- CSV and JSON Lines: the physical lines, for CSV without the header.
- Parquet and Avro: the records that the file declares.
- A file that declares no number, or cannot be unpacked: one for each 100 bytes, or for each line that could be counted
  if these are more. A JSON document is as long on one line as on thousands, so its bytes count.
"""

from pathlib import Path

import pyarrow as pa

from pipeline_assets.ingest.files.content import Content
from pipeline_assets.ingest.files.formats import avro
from pipeline_assets.ingest.files.formats.records import Format

_BYTES_PER_RECORD = 100
_MOST = 10**12  # a damaged footer may declare any number; sums of such numbers must fit


def records_of(content: Content, format: Format | None, path: Path) -> int:  # noqa: A002  as in `open_records`
    """Count the records of a file that cannot be read, at least 1.

    Args:
        content: What is known about its bytes.
        format: Its format, None if it is not known.
        path: The file.
    """
    lines = 0 if format == "json" else content.physical_lines - int(format == "csv")
    is_whole = content.failure is None or content.failure.startswith("encoding:")
    if is_whole and format in ("csv", "jsonl"):
        return max(lines, 1)
    if content.compression is None and (declared := _declared(format, path)) is not None:
        return min(max(declared, 1), _MOST)
    return max(lines, records_in_bytes(max(content.text_bytes, content.size_bytes)))


def records_in_bytes(size: int) -> int:
    """Count the records that bytes stand for if nothing else is known about them."""
    return max(size // _BYTES_PER_RECORD, 1)


def _declared(format: Format | None, path: Path) -> int | None:  # noqa: A002
    """Count the records that an uncompressed file declares; None if it does not, or cannot be read for that either."""
    try:
        if format == "parquet":
            from pyarrow import parquet  # 0.1 s, worth it only for a damaged file

            return int(parquet.read_metadata(path).num_rows)
        return avro.count_records(path) if format == "avro" else None
    except (avro.AvroError, pa.ArrowException, OSError, ValueError):  # names that are not UTF-8, too
        return None
