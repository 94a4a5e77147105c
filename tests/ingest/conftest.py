"""The way of one landed file, as `ingest.files.ingest` goes it: content, open, one COPY, finish, split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.conform.conform import conform_sql
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats.open_records import UnreadableFile, file_failure, open_records

SHAPE = RawShape(
    (
        RawColumn("invoice_no", "VARCHAR", required=True),
        RawColumn("quantity", "BIGINT", required=True),
        RawColumn("unit_price", "DECIMAL(12,3)"),
        RawColumn("note", "VARCHAR"),
    )
)


@dataclass(frozen=True)
class Dead:
    line: int | None
    reason: str
    raw: str | None


@dataclass(frozen=True)
class Landed:
    """Rows as (line, contract columns..., rescued) and dead letters, both in the order of their lines."""

    rows: list[tuple[Any, ...]]
    dead: list[Dead]
    columns: tuple[str, ...]

    @property
    def reasons(self) -> list[str]:
        return [letter.reason for letter in self.dead]

    @property
    def lines(self) -> list[int | None]:
        return [row[0] for row in self.rows]


Land = Callable[..., Landed]


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 2; SET memory_limit = '1GB'")
        yield connection


@pytest.fixture
def land(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> Land:
    def run(
        data: bytes | Path, name: str = "a.csv", *, shape: RawShape = SHAPE, evolve: bool = False, **options: Any
    ) -> Landed:
        path = data if isinstance(data, Path) else tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        temp_dir = tmp_path / "temp"
        temp_dir.mkdir(exist_ok=True)
        landed = _land(con, path, shape, temp_dir, evolve, options)
        assert {path.name for path in temp_dir.iterdir()} <= {"out.parquet", "tmp_out.parquet"}, (
            "temporary files are left behind"
        )
        assert not con.execute("SELECT table_name FROM duckdb_tables()").fetchall(), "temporary tables are left behind"
        return landed

    return run


def _land(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    shape: RawShape,
    temp_dir: Path,
    evolve: bool,
    options: dict[str, Any],
    careful: bool = False,
) -> Landed:
    content = read_content(path)
    out = temp_dir / "out.parquet"
    try:
        with open_records(con, path, content, temp_dir=temp_dir, careful=careful, shape=shape, **options) as records:
            outcome = None
            while outcome is None:
                sql = conform_sql(
                    records,
                    shape,
                    file=path.name,
                    partition_date=date(2011, 1, 1),
                    batch_id=content.content_id,
                    extracted_at=datetime(2011, 1, 1, tzinfo=UTC),
                    schema_evolution=evolve,
                )
                try:
                    con.execute(f"COPY ({sql}) TO '{out}' (FORMAT parquet)")
                except duckdb.Error as error:
                    raise UnreadableFile(file_failure(error)) from error
                (n_rows,) = con.execute(f"SELECT count(*) FROM '{out}'").fetchone() or (0,)
                outcome = records.finish(con, n_rows)
    except UnreadableFile as error:
        if not careful and path.name.endswith((".parquet", ".avro")):
            return _land(con, path, shape, temp_dir, evolve, options, careful=True)
        return Landed([], [Dead(None, error.reason, content.excerpt)], ())
    line = "_source.line"
    join = ""
    if outcome.line_map is not None:
        con.register("line_map", outcome.line_map)
        line, join = "line_map.line", "LEFT JOIN line_map ON line_map.ordinal = _source.line"
    written = con.execute(
        f"SELECT {line}, o.* EXCLUDE (_source, _partition_date, _batch_id, _extracted_at, _rescued, _reason, _raw, "
        "_raw_types), "
        f"_rescued, _reason, _raw FROM '{out}' o {join} ORDER BY _source.line"
    )
    columns = tuple(d[0] for d in written.description)[1:-3]
    rows = written.fetchall()
    dead = [Dead(row[0], row[-2], row[-1]) for row in rows if row[-2] is not None]
    dead += [Dead(reject.line, reject.reason, reject.raw) for reject in outcome.rejects]
    assert len(rows) + len(outcome.rejects) == len(dead) + sum(row[-2] is None for row in rows)
    dead.sort(key=lambda letter: letter.line or 0)
    return Landed([row[:-2] for row in rows if row[-2] is None], dead, columns)
