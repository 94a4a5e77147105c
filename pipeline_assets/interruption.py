"""Ends the queries and sessions that a thread waits for, because a signal alone does not reach them.

Code that starts such a wait registers a function that ends it (`ended_by`); code that is told to stop calls `end_all`.
Python runs a signal's handler only between two of its own steps, and it makes no step while it waits for a query with
parameters, or for a query that waits for a server.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

import duckdb

_lock = Lock()
_ends: dict[object, Callable[[], object]] = {}


@contextmanager
def ended_by(end: Callable[[], object]) -> Iterator[None]:
    """Register a function that ends the waiting in the block, whichever thread waits.

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
    """Lend a connection or a cursor and close it afterwards; `end_all` ends its queries.

    A signal only ends the waiting for a query: DuckDB's threads go on running it, and closing waits for them.
    """
    with ended_by(con.interrupt):
        try:
            yield con
        finally:
            con.interrupt()
            con.close()


def end_all() -> None:
    """End everything that is waited for. Errors are ignored: the work may be over already."""
    with _lock:
        ends = list(_ends.values())
    for end in ends:
        with suppress(Exception):
            end()
