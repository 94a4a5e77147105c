"""Events and rejects in chunks that fit into memory, whatever brought them: a slot, a snapshot, files, dead letters.

Only this module decides where to cut. `EventBatch` validates one chunk at a time, and can keep the halves of a key
change together only if both are in the same chunk.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject

RECORDS = 50_000
"""The most records of one table in a chunk; a file in bronze holds no more."""

FILE_BYTES = 16 * 1024 * 1024
"""The most bytes of one table's documents in a chunk. A file of them is one row group, of which DuckDB holds several
copies on each thread. With a memory limit of 1 GB, eight threads can read files of this size, but not even four can
read files of four times this size."""

BYTES = 64 * 1024 * 1024
"""The most bytes of all tables together."""

_BYTES_BESIDE_DOCUMENTS = 400  # of a record; for many short records they matter


@dataclass
class Chunk:
    """Some records of one table, in the order in which they came.

    Attributes:
        table: The table as the source names it; None for rejects that name no table.
        events: Its events.
        rejects: Its rejects.
        size: Approximate number of bytes of their documents.
    """

    table: str | None
    events: list[ChangeEvent] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    size: int = 0

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.events) + len(self.rejects)

    def take(self, item: ChangeEvent | Reject) -> int:
        """Add a record. Return the approximate number of bytes of its documents."""
        if isinstance(item, ChangeEvent):
            self.events.append(item)
            size = sum(map(_bytes, (item.key, item.before, item.after)))
        else:
            self.rejects.append(item)
            size = _bytes(item.raw)
        self.size += size
        return size


def _bytes(text: str | None) -> int:
    """Estimate the number of bytes without encoding the text: a character that is not ASCII counts as about three."""
    return 0 if not text else len(text) if text.isascii() else 3 * len(text)


def in_chunks(items: Iterable[ChangeEvent | Reject]) -> Iterator[Chunk]:
    """Yield records by table, in chunks of `RECORDS` or `FILE_BYTES`; all that wait, once they reach `BYTES`.

    A delete that would end a chunk begins the next one instead: an insert at the same place may follow, and then the
    two are an update of a key.

    Args:
        items: Events and rejects of any tables.

    Yields:
        A chunk. It is emptied when the next one is asked for, so that memory holds only one of them.
    """
    waiting: dict[str | None, Chunk] = {}
    size = 0
    for item in items:
        chunk = waiting.get(item.table)
        if chunk is None:
            chunk = waiting[item.table] = Chunk(item.table)
        size += chunk.take(item) + _BYTES_BESIDE_DOCUMENTS
        if size >= BYTES:
            due = list(waiting.values())
        elif chunk.records >= RECORDS or chunk.size >= FILE_BYTES:
            due = [chunk]
        else:
            continue
        for chunk in due:
            held = [chunk.events.pop()] if chunk.events and chunk.events[-1].op == "d" else []
            # The record that is held back does not count: otherwise, after a long one, every event would be a chunk of
            # its own.
            size -= chunk.size + chunk.records * _BYTES_BESIDE_DOCUMENTS
            waiting[chunk.table] = Chunk(chunk.table, held)
            yield from _handed_over(chunk)
    for chunk in waiting.values():
        yield from _handed_over(chunk)


def _handed_over(chunk: Chunk) -> Iterator[Chunk]:
    if chunk.events or chunk.rejects:
        yield chunk
    chunk.events.clear()
    chunk.rejects.clear()
