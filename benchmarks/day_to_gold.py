"""Benchmark `day_to_gold`: one day of five million rows from landing files to gold, beside DuckDB alone.

DuckDB alone is the hand-written script that one would write without a lake: the very SQL that the pipeline generates
for the files and dbt compiles for the models, from Parquet to Parquet with COPY. It keeps no log, knows no second
run, checks nothing.
"""

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from shutil import rmtree
from statistics import median

import duckdb

from benchmarks import measure
from benchmarks.lines import lines
from benchmarks.pipeline import (
    BRONZE,
    BUILD,
    CONTENDERS,
    MEMORY_LIMIT,
    MODELS,
    RUN,
    LandingToGold,
    day_folder,
    make_old,
    parse_dbt,
)
from benchmarks.report import Result, Target
from pipeline_assets.contracts.base import column_schema, contract, raw_shape
from pipeline_assets.ingest.conform.conform import conform_sql
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats.open_records import open_records
from pipeline_assets.ingest.files.path_pattern import LandedFile
from pipeline_assets.ingest.files.read_file import extracted_at
from pipeline_assets.lake import Lake

_ROUNDS = 3
_DAY = date(2011, 1, 4)
_FILES, _ROWS = 5, 1_000_000
# gold.customer_metrics joins them; a lake without these sources has them empty.
_NOT_IN_THIS_LAKE = ("silver.customers", "silver.payments", "silver.accounts")
_COPY = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1"
_RUN, _ALL, _PEER = "ingest, dbt run", "ingest, audit, dbt build (all tests)", "DuckDB alone"


def run(folder: Path) -> Result:
    """Measures the three contenders in turn, each in fresh processes and from nothing."""
    ours = LandingToGold(folder / "ours", parse_dbt(folder / "dbt"))
    files = _land(ours.landing, _ROWS)
    script, out = folder / "alone.sql", folder / "alone"
    script.write_text(_script(files, ours.landing, out, _models(folder / "tiny", ours.parsed)))
    phases: dict[str, list[dict[str, dict[str, float]]]] = {_RUN: [], _ALL: []}

    def contender(name: str, *, audit: bool, dbt: Sequence[Sequence[str]]) -> measure.Contender:
        return measure.Contender(
            name,
            ours.command(_DAY, _DAY, audit=audit, dbt=dbt),
            ours.environment(),
            prepare=ours.forget_lake,
            after=lambda: phases[name].append(ours.phases()),
        )

    found = measure.alternate(
        [
            contender(_ALL, audit=True, dbt=BUILD),
            contender(_RUN, audit=False, dbt=RUN),
            measure.Contender(
                _PEER, [sys.executable, str(CONTENDERS / "run_sql.py"), str(script)], prepare=lambda: _empty(out)
            ),
        ],
        _ROUNDS,
    )
    _compare(Lake(str(ours.lake)), out)
    return _result(found, phases)


def _land(landing: Path, rows: int) -> list[LandedFile]:
    """Writes the day's files; gives them as the listing would."""
    files = []
    for number in range(_FILES):
        path = day_folder(landing, _DAY) / f"{number}.parquet"
        duckdb.execute(f"COPY ({lines(rows, _DAY, first=number * rows)}) TO '{path}' (FORMAT parquet)")
        make_old(path)
        status = path.stat()
        files.append(LandedFile(str(path.relative_to(landing)), _DAY, status.st_size, status.st_mtime_ns))
    return files


def _models(folder: Path, parsed: Path) -> dict[str, str]:
    """The models' SQL for a lake that is built from nothing, by a run over few rows."""
    tiny = LandingToGold(folder, parsed)
    _land(tiny.landing, 100)
    tiny.forget_lake()
    measure.run(tiny.command(_DAY, _DAY, audit=False, dbt=RUN), tiny.environment())
    return {model: tiny.compiled(model) for model in MODELS}


def _script(files: list[LandedFile], landing: Path, out: Path, models: dict[str, str]) -> str:
    """The SQL script of DuckDB alone. Its settings are those of our connections, and the faster order of rows."""
    statements = [
        f"SET memory_limit = '{MEMORY_LIMIT}'",
        f"SET temp_directory = '{out}/spill'",
        "SET TimeZone = 'UTC'",
        "SET preserve_insertion_order = false",
    ]
    shape = raw_shape(contract("shop.InvoiceLines"))
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for number, file in enumerate(files):
            content = read_content(landing / file.path)
            with open_records(con, landing / file.path, content, temp_dir=landing.parent) as records:
                select = conform_sql(
                    records,
                    shape,
                    file=file.path,
                    partition_date=_DAY,
                    batch_id=content.content_id,
                    extracted_at=extracted_at(file),
                )
            statements.append(
                f"COPY (SELECT * EXCLUDE (_partition_date) FROM ({select})) TO '{out}/bronze/{number}.parquet' ({_COPY})"
            )
    statements += [f"CREATE SCHEMA {layer}" for layer in ("bronze", "silver", "gold")]
    statements.append(
        f"CREATE VIEW {BRONZE} AS SELECT *, DATE '{_DAY}' AS _partition_date FROM read_parquet('{out}/bronze/*.parquet')"
    )
    for name in _NOT_IN_THIS_LAKE:
        columns = ", ".join(f"{column.name} {column.dtype}" for column in column_schema(contract(name)))
        statements.append(f"CREATE TABLE {name} ({columns})")
    for model, sql in models.items():
        target = f"{out}/{model.replace('.', '/')}.parquet"
        statements.append(f"COPY ({sql}) TO '{target}' ({_COPY})")
        statements.append(f"CREATE VIEW {model} AS FROM read_parquet('{target}')")
    return ";\n".join(statements)


def _empty(out: Path) -> None:
    rmtree(out, ignore_errors=True)
    for layer in ("bronze", "silver", "gold"):
        (out / layer).mkdir(parents=True)


def _compare(lake: Lake, out: Path) -> None:
    """Both ways must end with the same rows, or the figures compare different work."""
    with lake.connect(memory_limit=MEMORY_LIMIT) as con:
        for model in MODELS:
            ours, peer = (
                f"delta_scan('{lake.table_uri(model)}')",
                f"read_parquet('{out}/{model.replace('.', '/')}.parquet')",
            )
            counts = "count(*), sum(hash(COLUMNS(*)::VARCHAR)::HUGEINT % 1000000007)"
            names = ", ".join(row[0] for row in con.execute(f"DESCRIBE FROM {peer}").fetchall())
            first, second = (
                con.execute(f"SELECT {counts} FROM (SELECT {names} FROM {t})").fetchone() for t in (ours, peer)
            )
            if first != second:
                raise measure.ContenderError(f"{model}: the contenders' rows differ: {first} and {second}")


def _result(found: dict[str, list[measure.Usage]], phases: dict[str, list[dict[str, dict[str, float]]]]) -> Result:
    middle = {name: measure.middle(usages) for name, usages in found.items()}
    peer = middle[_PEER]
    rows = [
        [
            name,
            usage.wall_seconds,
            usage.wall_seconds / peer.wall_seconds,
            usage.cpu_seconds,
            usage.cpu_seconds / peer.cpu_seconds,
            usage.peak_rss_mb,
        ]
        for name, usage in middle.items()
    ]
    notes = [f"Medians of {_ROUNDS} alternating runs. The same SQL, and the same rows at the end (compared)."]
    for name, runs in phases.items():
        parts = [
            f"{phase} {median(one[phase]['wall_seconds'] for one in runs):.1f} "
            f"({median(one[phase]['cpu_seconds'] for one in runs):.1f})"
            for phase in runs[0]
        ]
        notes.append(f"{name}, wall s (CPU s): {', '.join(parts)}")
    return Result(
        "day_to_gold",
        f"{_FILES * _ROWS:,} rows of one day from {_FILES} landing files to gold",
        ["", "wall s", "times", "CPU s", "times", "peak MB"],
        rows,
        [
            Target(f"{_RUN}: wall seconds, times {_PEER}", middle[_RUN].wall_seconds / peer.wall_seconds, 1.5),
            Target(f"{_RUN}: CPU seconds, times {_PEER}", middle[_RUN].cpu_seconds / peer.cpu_seconds, 1.5),
            Target(f"{_ALL}: peak memory of all processes, MB", middle[_ALL].peak_rss_mb, 1500),
        ],
        notes,
        {"runs": found, "phases": phases},
    )
