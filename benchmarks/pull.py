"""Benchmark `pull`: 2 million rows of PostgreSQL into a Delta table, beside pandas and dlt; then what has changed since.

The server's own work is not counted.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
from deltalake import DeltaTable

from benchmarks import measure, payments
from benchmarks.report import Result, Target
from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.lake import Lake

_ROUNDS = 3
_CHANGED = 10_000
_OURS, _LATER = "DatabaseTable", f"DatabaseTable, {_CHANGED:,} changed rows later"
_DLT, _DLT_ARROW, _PANDAS = "dlt, sql_database", "dlt, sql_database, pyarrow backend", "pandas.read_sql"
_PEAK_MB = 700


def run(folder: Path) -> Result:
    """Measures them in turn, each in a fresh process; the slowest once."""
    with PostgresServer(folder / "postgres", settings={"fsync": "off"}) as server:
        bank = _Bank(folder, server.url())
        quick = [
            bank.contender(_OURS, "ours"),
            bank.later(_LATER),
            bank.contender(_DLT_ARROW, "dlt-arrow", "lake/bank/payments"),
            bank.contender(_PANDAS, "pandas", ""),
        ]
        found = measure.alternate(quick, _ROUNDS)
        found |= measure.alternate([bank.contender(_DLT, "dlt", "lake/bank/payments")], 1)
    return _result(found)


class _Bank:
    """A database, and a folder that each contender finds empty."""

    def __init__(self, folder: Path, url: str) -> None:
        self._url, self._target, self._kept = url, folder / "target", folder / "kept"
        self._home = folder / "home"
        self._home.mkdir()
        payments.create(url)
        self._change = 0

    def contender(self, name: str, how: str, table: str = "bronze/bank__payments") -> measure.Contender:
        """One way to read the whole table; `table` is where below the folder it comes to lie."""

        def after() -> None:
            self._check(self._target / table, payments.ROWS)
            if how == "ours" and not self._kept.exists():
                shutil.copytree(self._target, self._kept)

        return self._contender(name, how, self._empty, after)

    def later(self, name: str) -> measure.Contender:
        """The next pull, after some rows have changed."""

        def prepare() -> None:
            self._empty()
            shutil.copytree(self._kept, self._target, dirs_exist_ok=True)
            self._change += 1
            update = "UPDATE payments SET note = %s, updated_at = now() WHERE payment_id %% %s = 0"
            with psycopg.connect(self._url, autocommit=True) as con:
                con.execute(update, [f"changed {self._change}", payments.ROWS // _CHANGED])

        # All changes since the kept pull are read: as many rows, in a newer version.
        after = self._target / "bronze/bank__payments"
        return self._contender(name, "ours", prepare, lambda: self._check(after, payments.ROWS + _CHANGED))

    def _contender(
        self, name: str, how: str, prepare: Callable[[], None], after: Callable[[], None]
    ) -> measure.Contender:
        command = [sys.executable, "-m", "benchmarks.contenders.pull_table", how, self._url, str(self._target)]
        quiet = {"HOME": str(self._home), "RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
        return measure.Contender(name, command, quiet, prepare, after)

    def _empty(self) -> None:
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir()

    def _check(self, table: Path, rows: int) -> None:
        """Every way must end with the same rows, or the figures compare different work."""
        with Lake(str(self._target)).connect() as con:
            files = DeltaTable(str(table)).file_uris()
            query = (
                "SELECT count(*), count(DISTINCT payment_id), sum(DISTINCT payment_id)::BIGINT FROM read_parquet($1)"
            )
            found = con.execute(query, [files]).fetchone()
        expected = (rows, payments.ROWS, payments.ROWS * (payments.ROWS + 1) // 2)
        if found != expected:
            raise measure.ContenderError(f"{table} holds {found}, not {expected}")


def _result(found: dict[str, list[measure.Usage]]) -> Result:
    middle = {name: measure.middle(usages) for name, usages in found.items()}
    ours, dlt = middle[_OURS], middle[_DLT]
    targets = [
        Target(f"CPU seconds, to those of dlt (1 to {dlt.cpu_seconds / ours.cpu_seconds:.1f})",
               ours.cpu_seconds / dlt.cpu_seconds, 0.2),
        Target("peak MB", max(usage.peak_rss_mb for usage in found[_OURS]), _PEAK_MB),
    ]  # fmt: skip
    rows = {name: _CHANGED if name == _LATER else payments.ROWS for name in middle}
    return Result(
        "pull",
        f"{payments.ROWS:,} rows of 11 columns from PostgreSQL into a Delta table",
        ["", "CPU s", "wall s", "rows/s", "peak MB"],
        [
            [name, usage.cpu_seconds, usage.wall_seconds, round(rows[name] / usage.wall_seconds), usage.peak_rss_mb]
            for name, usage in middle.items()
        ],
        targets,
        [
            f"Medians of {_ROUNDS} alternating runs (dlt's default backend: one); whole processes, imports included.",
            "The server's work is not counted. Only ours tests each value against a contract.",
        ],
        {"runs": found},
    )
