"""What an interrupt must reach beside Python: queries and sessions that a thread waits for, deaf to signals.

Who starts such a thing names what ends it (`ended_by`); who is told to stop calls `end_all`. Python runs a signal's
handler only between two of its own steps, and a query with parameters, or one that waits for a server, has none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

import duckdb

_lock = Lock()
_ends: dict[object, Callable[[], object]] = {}


@contextmanager
def ended_by(end: Callable[[], object]) -> Iterator[None]:
    """Names what ends the waiting of the block, whatever thread it waits in.

    Args:
        end: Called from another thread, perhaps more than once, and perhaps when nothing waits.
    """
    key = object()
    with _lock:
        _ends[key] = end
    try:
        yield
    finally:
        with _lock:
            _ends.pop(key, None)


@contextmanager
def lent(con: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lends a connection, or a cursor, whose queries `end_all` ends, and closes it.

    A signal ends only the waiting for a query: what runs in DuckDB's threads goes on, and to close waits for it.
    """
    with ended_by(con.interrupt):
        try:
            yield con
        finally:
            con.interrupt()
            con.close()


def end_all() -> None:
    """Ends all that is waited for. What cannot be ended is left: it may be over already."""
    with _lock:
        ends = list(_ends.values())
    for end in ends:
        with suppress(Exception):
            end()
