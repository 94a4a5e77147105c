"""The commands `pipeline dead-letters ...`: what waits, why, and what becomes of it. The work is done in `ingest`.

Only `replay` needs the declaration of a source, and so imports Dagster.
"""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as replace_fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import duckdb
import typer

from pipeline_assets import console
from pipeline_assets.console import Json
from pipeline_assets.ingest.dead_letters import discard as discarding
from pipeline_assets.ingest.dead_letters.select import ORDER, Group, Selection, groups
from pipeline_assets.lake import Lake, LakeError, Table
from pipeline_assets.lake.dead_letters import dead_letter_table
from pipeline_assets.settings import load_settings

if TYPE_CHECKING:
    from pipeline_assets.components.assets.dead_letters import DeadLetters

app = typer.Typer(no_args_is_help=True, help="List, show, export, replay or discard records that did not fit.")

_SHOWN = 20
_RAW_CHARACTERS = 100
_LAYERS = ("bronze.", "dead_letters.")
_UNROUTED = "__unrouted"
_COLUMNS = ("_partition_date", "_batch_id", "_extracted_at", "file", "line", "reason", "raw", "records")

TableName = Annotated[str, typer.Argument(help="e.g. shop__invoice_lines, or dead_letters.shop__invoice_lines")]
Day = Annotated[str | None, typer.Option(help="Only those of this partition, e.g. 2011-01-04.")]
Reason = Annotated[
    str | None, typer.Option(help="Only those with this text in their reason, or of this group of `list`.")
]
Batch = Annotated[str | None, typer.Option(help="Only those of this batch.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many, the first by day and place.")]


@app.command("list")
def list_(
    table: Annotated[str | None, typer.Argument(help="One table; all if not given.")] = None,
    day: Day = None,
    reason: Reason = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """List waiting dead letters by table and reason, with the values in the reasons masked."""
    which = _selection(day, reason, batch, None)
    with _lake() as (lake, con):
        tables = [_table(lake, table)] if table else _tables(lake)
        found = [(dead_letters, group) for dead_letters in tables for group in groups(con, dead_letters, which)]
    if as_json:
        console.print_json(
            [
                {"table": dead_letters.name, **vars(group), "remedy": _remedy(dead_letters, group)}
                for dead_letters, group in found
            ]
        )
        return
    if not found:
        console.tell("no dead letters wait")
        return
    rows = [
        (
            dead_letters.name, group.reason, f"{group.records:,}", str(group.first_day), str(group.last_day),
            _place(group.file, group.line), _remedy(dead_letters, group),
        )
        for dead_letters, group in found
    ]  # fmt: skip
    console.print_table(["table", "reason", "records", "first day", "last day", "e.g.", "remedy"], rows, right={2})


@app.command()
def show(
    table: TableName,
    day: Day = None,
    reason: Reason = None,
    batch: Batch = None,
    limit: Limit = _SHOWN,
    as_json: Json = False,
) -> None:
    """Show waiting dead letters of a table with their raw records."""
    with _lake() as (lake, con):
        found = list(_records(con, _table(lake, table), _selection(day, reason, batch, limit)))
    if as_json:
        console.print_json(found)
        return
    rows = [
        (
            str(each["_partition_date"]),
            _place(each["file"], each["line"]),
            each["reason"],
            each["raw"][:_RAW_CHARACTERS],
        )
        for each in found
    ]
    console.print_table(["day", "source", "reason", "raw"], rows)


@app.command()
def export(
    table: TableName,
    to: Annotated[
        Path | None, typer.Option(help="A file; its suffix .csv means CSV, any other JSON Lines. Else stdout.")
    ] = None,
    day: Day = None,
    reason: Reason = None,
    batch: Batch = None,
    limit: Limit = None,
) -> None:
    """Write waiting dead letters whole, as JSON Lines or CSV."""
    count = 0
    with _lake() as (lake, con):
        records = _records(con, _table(lake, table), _selection(day, reason, batch, limit))
        with _opened(to) if to else _stdout() as file:
            writer = csv.DictWriter(file, _COLUMNS) if to and to.suffix == ".csv" else None
            if writer:
                writer.writeheader()
            for count, record in enumerate(records, 1):  # noqa: B007  the last one is the number
                if writer:
                    writer.writerow(record)
                else:
                    file.write(json.dumps(record, default=str, ensure_ascii=False) + "\n")
    console.tell(f"{count:,} dead letters of {table} were written")


@app.command()
def replay(table: TableName, day: Day = None, reason: Reason = None, batch: Batch = None, limit: Limit = None) -> None:
    """Try waiting dead letters with today's contract. What fits becomes rows, what does not stays."""
    which = _selection(day, reason, batch, limit)
    with _lake() as (lake, con):
        dead_letters = _table(lake, table)
        declared = _declared(dead_letters)
        if declared is None:
            name = dead_letters.name.partition(".")[2]
            console.fail(
                f"no source in pipeline_assets/defs/ declares {name}, and a replay needs its contract: discard"
            )
        found = declared.replay(lake, con, which, "")
        tables = [dead_letter_table(lake, f"bronze.{name}") for name in declared.tables]
        still = [group for each in tables for group in groups(con, each, replace_fields(which, limit=None))]
    rest = sum(group.dead_letters for group in still)
    outcome = f"{found.tried:,} dead letters were tried, {found.rows:,} are rows now, {rest:,} still wait"
    lines = [f"{dead_letters.name}: {outcome}"]
    if found.repaired:
        lines.append(
            f"{found.repaired:,} were rows already, by another replay that was interrupted or still runs: they were "
            "removed"
        )
    if found.passed_over:
        lines.append(
            f"{found.passed_over:,} were passed over: the rows of their batch are not in the table; the next run "
            "cleans up"
        )
    if found.not_replayable:
        lines.append(
            f"{found.not_replayable:,} of those that wait hold no record to try: have it delivered again, mended, or "
            "pull again"
        )
    if found.rows or found.repaired:
        lines.append(f"The next run carries them to silver: start the job {declared.source}__to_gold, or wait for it")
    if len(declared.tables) > 1:
        lines.append(
            f"All tables of {declared.source} were tried. After a run that was killed, let the next one end before "
            "you replay here: it reads that batch again, and an event would come twice"
        )
    for line in lines:
        console.tell(line)


@app.command()
def discard(table: TableName, day: Day = None, reason: Reason = None, batch: Batch = None, limit: Limit = None) -> None:
    """Discard waiting dead letters: they stay in the table with the time, and wait no longer."""
    with _lake() as (lake, con):
        dead_letters = _table(lake, table)
        if _is_of_changes(dead_letters) and (declared := _declared(dead_letters)):
            declared.finish(lake, con, "")
        found = discarding.discard(con, _bronze(dead_letters), _selection(day, reason, batch, limit))
        source = dead_letters.name.partition(".")[2]
        job = f"{source.partition('__')[0] if _is_of_changes(dead_letters) else source}__to_gold"
    console.tell(f"{dead_letters.name}: {found.dead_letters:,} dead letters were discarded, of {len(found.days)} days")
    if found.dead_letters:
        console.tell(f"If they withheld a day, the next run publishes it: start the job {job}, or wait for it")


def _opened(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8", newline="")
    except OSError as error:
        console.fail(f"{file} cannot be written: {error.strerror}")


@contextmanager
def _lake() -> Iterator[tuple[Lake, duckdb.DuckDBPyConnection]]:
    """Lend the lake and a connection; end the command with one line if something goes wrong there."""
    settings, lake = load_settings(), console.lake()
    try:
        with (
            lake.errors_explained(),
            lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con,
        ):
            yield lake, con
    except (duckdb.Error, LakeError) as error:
        console.fail(str(error))


@contextmanager
def _stdout() -> Iterator[Any]:
    yield sys.stdout


def _selection(day: str | None, reason: str | None, batch: str | None, limit: int | None) -> Selection:
    try:
        return Selection(date.fromisoformat(day) if day else None, reason, batch, limit)
    except ValueError:
        console.fail(f"--day {day} is no date: write it as 2011-01-04")


def _tables(lake: Lake) -> list[Table]:
    return [Table(lake, name) for name in lake.table_names() if name.startswith("dead_letters.")]


def _table(lake: Lake, name: str) -> Table:
    plain = name
    for layer in _LAYERS:
        plain = plain.removeprefix(layer)
    found = dead_letter_table(lake, f"bronze.{plain}")
    if not found.exists():
        known = [table.name for table in _tables(lake)] if lake.is_local else []
        has = f"; there are {', '.join(known)}" if known else ""
        console.fail(f"there is no table {found.name}: no record of {plain} was ever a dead letter{has}")
    return found


def _bronze(dead_letters: Table) -> Table:
    return Table(dead_letters.lake, dead_letters.name.replace("dead_letters.", "bronze.", 1))


def _is_of_changes(dead_letters: Table) -> bool:
    bronze = _bronze(dead_letters)
    if dead_letters.name.endswith(_UNROUTED) or not bronze.exists():
        return dead_letters.name.endswith(_UNROUTED)
    return "commit_lsn" in {column.name for column in bronze.open().schema().fields}


def _remedy(dead_letters: Table, group: Group) -> str:
    if group.is_replayable or _is_of_changes(dead_letters):
        return "mend the contract, then replay; or discard"
    return "have it delivered again, mended, or pull again; or discard"


def _place(file: str, line: int | None) -> str:
    """Write where a record comes from; a whole file has the line 0 or none."""
    return f"{file}:{line}" if line else file


def _records(con: duckdb.DuckDBPyConnection, dead_letters: Table, which: Selection) -> Iterator[dict[str, Any]]:
    columns = "_partition_date, _batch_id, _extracted_at, _source.file, _source.line, reason, raw, coalesce(records, 1)"
    found = con.execute(f"SELECT {columns} FROM {which.relation(dead_letters)} ORDER BY {ORDER}")
    while row := found.fetchone():
        yield dict(zip(_COLUMNS, row, strict=True))


def _declared(dead_letters: Table) -> "DeadLetters | None":
    """Find the declaration of a table's source."""
    from pipeline_assets.components.declared import dead_letters_of

    return dead_letters_of(dead_letters.name.partition(".")[2])
