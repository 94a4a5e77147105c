"""Errors of a source database: the message names the place and never a secret; `is_transient` asks for another try.

Only errors that may pass by themselves are tried again: a lost connection, a lock, a serialization failure, a server
that starts. A syntax error fails at once, with the database's own text.
"""

import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import duckdb
import psycopg
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from pipeline_assets.ingest.batch.errors import BatchError
from pipeline_assets.ingest.postgres_session import redact

if TYPE_CHECKING:  # code that has such an error has loaded SQLAlchemy; no other code needs it
    from sqlalchemy.exc import DBAPIError

_log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0

# Class 08 connection, 40 rolled back (serialization, deadlock), 53 resources, 57P01..57P04 shut down, starts, dropped;
# 55P03 lock not available, 57014 cancelled (by a conflict with recovery on a replica, or a statement timeout).
_TRANSIENT_SQLSTATE = re.compile(r"08...|40...|53...|57P0[1-3]|55P03|57014")
# libpq gives no SQLSTATE for errors of connecting.
_REFUSED = re.compile(r"authentication failed|does not exist|no pg_hba\.conf entry|not permitted|invalid|no password")
# For drivers without SQLSTATE: SQLite's texts, MySQL's numbers (lock wait, deadlock, too many, connection).
_TRANSIENT_TEXT = re.compile(
    r"(?i)database (table )?is (locked|busy)|connection (was )?(lost|reset|refused|closed)|gone away"
)
_TRANSIENT_NUMBERS = {1040, 1205, 1213, 2002, 2003, 2006, 2013, 2055}

_REMEDIES = {
    "42501": "GRANT SELECT on it to the role",
    "55P03": "end the transaction that has been open longest (SELECT * FROM pg_stat_activity ORDER BY xact_start)",
}


class DatabaseError(BatchError):
    """The database cannot be reached, refuses, or does not have what was declared; nothing was committed.

    Attributes:
        is_transient: Whether another attempt may succeed.
    """

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


def of_postgres(place: str, error: psycopg.Error, password: str | None) -> DatabaseError:
    """Give the error for one of PostgreSQL. Raise it `from None`: psycopg's frames hold the connection's parameters.

    Args:
        place: `host:port/database`.
        error: The error.
        password: The password, which is left out of the text.
    """
    state = error.sqlstate or ""
    text = str(error) or type(error).__name__
    is_at_door = isinstance(error, psycopg.OperationalError) and not state
    is_transient = bool(_TRANSIENT_SQLSTATE.fullmatch(state)) or (is_at_door and not _REFUSED.search(text))
    remedy = f"; {_REMEDIES[state]}" if state in _REMEDIES else ""
    return DatabaseError(f"PostgreSQL {place}: {without_secrets(text, password)}{remedy}", is_transient=is_transient)


def of_sqlalchemy(place: str, error: "DBAPIError", password: str | None) -> DatabaseError:
    """Give the error for one of any other driver. Raise it `from None`."""
    original = error.orig if error.orig is not None else error
    text = str(original)
    state = str(getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or "")
    number = original.args[0] if original.args else None
    is_transient = (
        error.connection_invalidated
        or bool(_TRANSIENT_SQLSTATE.fullmatch(state))
        or number in _TRANSIENT_NUMBERS
        or bool(_TRANSIENT_TEXT.search(text))
    )
    return DatabaseError(f"{place}: {without_secrets(text, password)}", is_transient=is_transient)


def of_duckdb(place: str, error: duckdb.Error) -> DatabaseError:
    """Give the error for one of a DuckDB file; another process that writes the file keeps it locked."""
    text = str(error)
    return DatabaseError(f"{place}: {text}", is_transient="Could not set lock" in text)


def without_secrets(text: str, password: str | None) -> str:
    """Give the text with `***` for passwords, as they are and as URLs write them."""
    for secret in {password, unquote(password), quote(password, safe="")} if password else ():
        text = text.replace(secret, "***")
    return redact(text)


def retrying() -> Retrying:
    """Repeat what may pass by itself: 5 attempts, waits of 1, 2, 4 and 8 seconds, each with jitter."""
    return Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(
            multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS, jitter=FIRST_WAIT_SECONDS
        ),
        retry=retry_if_exception(_is_worth_it),
        before_sleep=_tell,
        reraise=True,
    )


def _is_worth_it(error: BaseException) -> bool:
    return isinstance(error, DatabaseError) and error.is_transient


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0
    _log.warning("attempt %d of %d failed, the next one in %.1f s: %s", state.attempt_number, ATTEMPTS, wait, error)
