"""Events and rejects in chunks that a memory can hold, whatever brought them: a slot, a snapshot, files, dead letters.

Where to cut is decided here and nowhere else, because a chunk is what `EventBatch` validates at a time: it can keep the
halves of a key change together only if it has them both.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject

RECORDS = 50_000
"""Of one table: a file in bronze holds no more."""

FILE_BYTES = 16 * 1024 * 1024
"""Of one table's documents. A file of them is one row group, of which DuckDB holds several copies, on each thread: with
a memory limit of 1 GB eight threads can read files of this size, and not even four can read files of four times this
size."""

BYTES = 64 * 1024 * 1024
"""Of all tables together."""

_BYTES_BESIDE_DOCUMENTS = 400  # of a record: many short ones are no small matter


@dataclass
class Chunk:
    """Some records of one table, in the order in which they came.

    Attributes:
        table: The table as the source names it; None for rejects that name none.
        events: Its events.
        rejects: Its rejects.
        size: Bytes of their documents, about.
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
        """Takes a record. Returns the bytes of its documents, about."""
        if isinstance(item, ChangeEvent):
            self.events.append(item)
            size = sum(map(_bytes, (item.key, item.before, item.after)))
        else:
            self.rejects.append(item)
            size = _bytes(item.raw)
        self.size += size
        return size


def _bytes(text: str | None) -> int:
    """About how many, without encoding it: what is not ASCII takes three for a character, more or less."""
    return 0 if not text else len(text) if text.isascii() else 3 * len(text)


def in_chunks(items: Iterable[ChangeEvent | Reject]) -> Iterator[Chunk]:
    """Yields records by table, in chunks of `RECORDS` or `FILE_BYTES`, and all that wait when they come to `BYTES`.

    A delete that would be the last of a chunk is the first of the next one: an insert at the same place may follow, and
    then the two are an update of a key.

    Args:
        items: Events and rejects of any tables.

    Yields:
        A chunk, which is emptied when the next one is asked for: else there were two of them in memory.
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
            # Without the bytes of the one that is held: a long one would have every event after it be a chunk.
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
