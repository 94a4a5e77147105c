"""Opens sessions with a PostgreSQL source, set up so that each value has one text, and reports errors without secrets.

Holds `Database`. Pulls (`ingest.database.postgres`) and slots (`ingest.cdc.slot`) decide what is asked in a session.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pipeline_assets.interruption import ended_by
from pipeline_assets.sql import quote_text

Session = psycopg.Connection[tuple[Any, ...]]

LOCK_TIMEOUT_SECONDS = 60
"""How long a session waits for a lock, or for transactions that were open when a slot is created."""

# A value's text depends on the session, and a database or a role may have its own defaults for each of these.
_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "search_path": "",
    "client_min_messages": "warning",
    # Rows that a policy hides are an error, not a snapshot with fewer rows.
    "row_security": "off",
    # One statement reads a transaction of any size.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s",
}
_CANCEL_SECONDS = 3.0
_SETTINGS_SINCE_17 = {"transaction_timeout": "0"}
_V17 = 170_000

# With these a run notices within two minutes that the host has gone, and does not wait for a packet for ever.
_PARAMETERS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 9,
}

_REMEDIES = {
    "42501": "the role needs LOGIN, REPLICATION, and SELECT on the captured tables",
    "53400": "drop slots that nobody reads, or raise max_replication_slots",
    "55006": "one run of a stream at a time; end the other reader",
    "55P03": "end the transaction that has been open longest (SELECT * FROM pg_stat_activity ORDER BY xact_start)",
}

_PASSWORD_IN_URL = re.compile(r"(://[^:/?#\s]*):\S*@")
_PASSWORD_PARAMETER = re.compile(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)")


class SourceDatabaseError(Exception):
    """A database cannot be read as declared. The message says which, why and what to do, and never holds a password."""


def redact(text: str) -> str:
    """Return the text with `***` for passwords in connection strings, whether URLs or `key=value`."""
    return _PASSWORD_PARAMETER.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


class Database:
    """Where the source is, and how to get a session. Shows neither password nor URL.

    Attributes:
        place: `host:port/database`, for messages.
        name: The database.
    """

    def __init__(self, url: str, application_name: str) -> None:
        """Parse the connection string; connect to nothing.

        Args:
            url: `postgresql://user:password@host:port/database`, or libpq's `key=value` form.
            application_name: The name of these sessions in the server's views.

        Raises:
            SourceDatabaseError: It is not a connection string.
        """
        parameters = _parsed(url)
        if parameters is None:
            raise SourceDatabaseError(
                "the source's connection string cannot be read: give postgresql://user:password@host:port/db, special "
                "characters of the password percent-encoded (@ is %40, / is %2F)"
            )
        self._parameters = {
            **_PARAMETERS,
            **parameters,
            "application_name": application_name,
            "client_encoding": "UTF8",
        }
        self.name = str(parameters.get("dbname") or parameters.get("user") or "")
        host = parameters.get("host") or parameters.get("hostaddr") or "local socket"
        self.place = f"{host}:{parameters.get('port', 5432)}/{self.name}"

    def __repr__(self) -> str:
        return f"Database({self.place})"

    @contextmanager
    def connect(self, *, replication: bool = False) -> Iterator[Session]:
        """Yield a session in autocommit mode, and close it, whatever it is doing then.

        Args:
            replication: Whether the session has to understand the commands of the replication protocol.

        Raises:
            SourceDatabaseError: For every error of the connection and of what is done with it.
        """
        with self._errors():
            mode = {"replication": "database"} if replication else {}
            connection = psycopg.connect(**{**self._parameters, **mode}, autocommit=True)
            try:
                with ended_by(connection.cancel):
                    self._set_up(connection)
                    yield connection
            except BaseException as error:
                if not isinstance(error, Exception):
                    # Interrupted. A server that sorts for minutes would go on, because it only notices when it sends.
                    with suppress(psycopg.Error):
                        connection.cancel_safe(timeout=_CANCEL_SECONDS)
                raise
            finally:
                connection.close()

    def _set_up(self, connection: Session) -> None:
        info = connection.info
        if info.parameter_status("server_encoding") == "SQL_ASCII":
            raise SourceDatabaseError(
                f"PostgreSQL {self.place}: its encoding is SQL_ASCII, so its texts are bytes of no known meaning: load "
                "it into a database in UTF8"
            )
        settings = {**_SETTINGS, **(_SETTINGS_SINCE_17 if info.server_version >= _V17 else {})}
        connection.execute("; ".join(f"SET {name} = {quote_text(value)}" for name, value in settings.items()).encode())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            # Not chained: psycopg's frames hold the parameters of the connection.
            raise SourceDatabaseError(f"PostgreSQL {self.place}: {_explained(error)}") from None


def _parsed(url: str) -> dict[str, Any] | None:
    try:
        parameters = dict(conninfo_to_dict(url))
    except psycopg.Error:  # its text quotes parts of the string
        return None
    # A password with an unescaped @ or / splits in the wrong place, and its end would be shown as host or port.
    host, address, port, database = (str(parameters.get(name, "")) for name in ("host", "hostaddr", "port", "dbname"))
    return None if "@" in host + address + database or re.search(r"[^0-9,]", port) else parameters


def _explained(error: psycopg.Error) -> str:
    """Return the server's message, and a remedy if we know one."""
    details = (error.diag.message_detail, error.diag.message_hint, _REMEDIES.get(error.sqlstate or ""))
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    return redact("; ".join([" ".join(message.split()), *(detail.rstrip(".") for detail in details if detail)]))
