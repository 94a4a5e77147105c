"""A real PostgreSQL for tests: one server per worker, an empty database per test, and no slot left behind."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline_assets.demo.postgres_server import PostgresServer

# Nothing of it is kept, so nothing needs to reach the disk. But synchronous_commit stays on: what is not flushed is not
# yet in a slot, so a test would have to wait for its own changes.
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_prepared_transactions": "5"}


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server for this worker's tests. Its WAL is that of all of them: compare positions, do not count bytes."""
    folder = Path(tmp_path_factory.mktemp("postgres"))
    # TEST_POSTGRES_BIN_DIR=/usr/lib/postgresql/15/bin runs the same tests on another version.
    other = os.environ.get("TEST_POSTGRES_BIN_DIR")
    with PostgresServer(folder, settings=FAST, bin_dir=Path(other) if other else None) as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database; dropped after the test with its slots, whoever is still connected."""
    name = f"test_{uuid4().hex[:12]}"
    execute(postgres_server.url(), f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    execute(
        postgres_server.url(),
        f"SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE database = '{name}' AND active",
        f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}'",
        f"DROP DATABASE {name} WITH (FORCE)",
    )


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each a transaction of its own. Returns the rows of the last one."""
    import psycopg  # not for every test that loads conftest.py

    with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
