"""What waits in the shop's slot, into bronze or nowhere; then a command, if one is given.

Arguments: slot or debezium, bronze or nowhere, command. The environment holds the source's URL (SHOP_DB_URL) and says
where the lake is.
"""

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.captured import CUSTOMERS, PUBLICATION, SLOT, UPDATES

if TYPE_CHECKING:
    from pipeline_assets.ingest.cdc.slot.postgres import Postgres


def main() -> None:
    """Reads the slot."""
    reader, to, *command = sys.argv[1:]
    postgres = _kind(reader)(os.environ["SHOP_DB_URL"], slot=SLOT, publication=PUBLICATION)
    if to == "bronze":
        _drain(postgres)
    else:
        _read(postgres)
    if command:
        subprocess.run(command, check=True)


def _kind(reader: str) -> "type[Postgres]":
    if reader == "debezium":
        from debezium_engine import DebeziumPostgres

        return DebeziumPostgres
    from pipeline_assets.ingest.cdc.slot.postgres import Postgres

    return Postgres


def _drain(postgres: "Postgres") -> None:
    from pipeline_assets.ingest.cdc.slot.drain import Drain
    from pipeline_assets.ingest.cdc.slot.health import ChangeSource
    from pipeline_assets.lake import Lake
    from pipeline_assets.settings import load_settings

    settings = load_settings()
    lake = Lake(settings.lake_uri, settings.storage_options())
    with lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con:
        report = Drain(lake, con, ChangeSource("shop_db", (CUSTOMERS,), 1 << 40), postgres).run()
    if report.suspects:
        raise SystemExit(str(report.suspects))


def _read(postgres: "Postgres") -> None:
    changes = postgres.peek(postgres.flush_lsn(), 3 * UPDATES, {CUSTOMERS.source_table: CUSTOMERS.keys})
    events = sum(1 for _ in changes)
    if events != UPDATES:
        raise SystemExit(f"{events} events")


if __name__ == "__main__":
    main()
