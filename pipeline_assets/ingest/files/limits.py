"""Limits of one file, so that a poisoned file harms only itself: seconds of reading, and dead letters that are kept.

Neither limit proves anything about the file's bytes. A file that takes too long is left unread, and the limit is named
(`unread`). Beyond the bound one dead letter stands for all other dead letters, with their number, so that all counts
stay exact.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import duckdb

MAX_SECONDS_PER_FILE = 3_600
"""A 60 GB CSV on a slow disk; a run may take four hours."""

MAX_DEAD_LETTERS = 100_000
"""The most dead letters of one file. Nobody reads more, and 27 million fit into a gzip of 1.5 MB."""

MAX_DEAD_LETTER_BYTES = 64 * 1024 * 1024
"""The most bytes of damaged CSV lines, which may be long and are held in memory."""

_AGAIN_SECONDS = 10  # an interrupt that comes between two statements is lost, so it is repeated
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class FileTimeLimitError(Exception):
    """The reading of a file takes longer than declared."""


def rest_reason(number: int) -> str:
    """Give the reason of the dead letter that stands for those beyond the bound."""
    return f"limit: {number} more records cannot be read; of one file {MAX_DEAD_LETTERS} dead letters are kept"


@contextmanager
def time_limit(seconds: float | None, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """End what its block does after so many seconds: a query is interrupted, loops end at `check_time`.

    Args:
        seconds: Number of seconds; None for no limit.
        con: Connection of the queries.

    Raises:
        FileTimeLimitError: The time was over.
    """
    if seconds is None:
        yield
        return
    deadline, is_done = time.monotonic() + seconds, threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not is_done.wait(wait):
            con.interrupt()
            wait = _AGAIN_SECONDS

    watch = threading.Thread(target=interrupt, name="file time limit", daemon=True)
    token = _deadline.set(deadline)
    watch.start()
    try:
        yield
    except duckdb.InterruptException as error:
        if time.monotonic() < deadline:
            raise  # another error than the time limit
        raise time_limit_error(seconds) from error
    except FileTimeLimitError as error:
        raise time_limit_error(seconds) from error
    finally:
        is_done.set()
        _deadline.reset(token)
        watch.join()


def check_time() -> None:
    """End a loop in Python whose time is over.

    Raises:
        FileTimeLimitError: The time is over.
    """
    deadline = _deadline.get()
    if deadline is not None and time.monotonic() > deadline:
        raise FileTimeLimitError


def time_limit_error(seconds: float) -> FileTimeLimitError:
    """Give the error of a file that takes longer than declared."""
    return FileTimeLimitError(
        f"limit: its reading takes longer than max_seconds_per_file = {seconds:g}: raise it or have the file delivered "
        "in parts"
    )
