"""A shop that lands its invoice lines, one file per trading day, out of the real *Online Retail* data.

Holds: what arrives in the landing folder on a good day (`land_days`), on a bad one (`land_broken_file`) and when the
shop sends a day again (`land_correction`). Does not hold: anything that reads the files. All of it is deterministic,
down to bytes and file times, so a replay of the demo lands nothing new.

Data: Chen, D. (2015). Online Retail. UCI Machine Learning Repository. https://doi.org/10.24432/C5BW33, CC BY 4.0.
"""

import csv
import gzip
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb

from pipeline_assets.sql import quote_text

DEMO_PARQUET = Path(__file__).parent / "data" / "online_retail_30_days.parquet"
"""The first 30 trading days, shipped with the package: 58,345 lines."""

PUBLISHED_REVENUE = Decimal("8887208.894")
"""What others have published as the revenue of the whole data set, in GBP."""

FOLDER = Path("shop", "invoice_lines")
"""Below the landing root; one folder per date in it."""

_COPY_OPTIONS = {
    "csv": "FORMAT csv, HEADER",
    "csv.gz": "FORMAT csv, HEADER, COMPRESSION gzip",
    "jsonl": "FORMAT json",
    "jsonl.zst": "FORMAT json, COMPRESSION zstd",
    "json": "FORMAT json, ARRAY true",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
}
FORMATS = (*_COPY_OPTIONS, "avro")
"""File name extensions, in the order in which the days cycle through them."""

# The source's last invoice is 581587 (A563187 with its letter), so these can be told from real ones.
BROKEN_INVOICE = "990001"
LATE_INVOICE = "990002"

BROKEN_GOOD_LINES = 12
BROKEN_BAD_LINES = 12
CORRECTION_REMOVED_LINES = 3
CORRECTION_LATE_LINES = 2
CORRECTION_LATE_TRADING_DAYS = 2


class ShopError(Exception):
    """The shop was asked for what its data does not have. The message says what there is."""


def trading_days(source_parquet: Path) -> list[date]:
    """Return the days on which the shop sold something, in order.

    Args:
        source_parquet: `DEMO_PARQUET`, or the whole data set with the same columns.
    """
    with open_lines(source_parquet) as con:
        return trading_days_of(con)


@contextmanager
def open_lines(source_parquet: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB with the source in the table `lines`, in the source's order (`rowid`)."""
    with duckdb.connect(":memory:") as con:
        # One row group per file in the source: without the table each day would read all of it again.
        con.execute(f"CREATE TABLE lines AS FROM read_parquet({quote_text(str(source_parquet))})")
        yield con


def trading_days_of(con: duckdb.DuckDBPyConnection) -> list[date]:
    """Give `trading_days` of the table `lines`."""
    return [
        day for (day,) in con.execute("SELECT DISTINCT InvoiceDate::DATE AS day FROM lines ORDER BY day").fetchall()
    ]


def land_days(
    source_parquet: Path,
    landing_root: Path,
    *,
    days: Sequence[date] | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Land one file per trading day: `<landing_root>/shop/invoice_lines/<date>/invoice_lines.<format>`.

    The format of a day depends on its place in the shop's calendar alone: land days in any order and portions.

    Args:
        source_parquet: `DEMO_PARQUET`, or the whole data set with the same columns.
        landing_root: A local folder; created if missing.
        days: Trading days; all of them if None.
        formats: Extensions out of `FORMATS` to cycle through.

    Returns:
        The files, in the order of `days`. Each appears under its name only when it is complete.

    Raises:
        ShopError: A day without trade, or an unknown format.
    """
    with open_lines(source_parquet) as con:
        calendar = trading_days_of(con)
        paths = []
        for day in calendar if days is None else days:
            extension = _format_of(day, calendar, formats)
            path = _path(landing_root, day, extension)
            _copy(con, _lines_of(day), path, arrived=_next_morning(day), extension=extension)
            paths.append(path)
        return paths


def land_correction(source_parquet: Path, landing_root: Path, day: date, *, formats: Sequence[str] = FORMATS) -> Path:
    """Land a day again, under the same name, as the shop corrected it two days later.

    The last three lines are gone, the first line with a price costs a tenth less, and two late lines of the trading day
    two before (invoice 990002) have come in.

    Args:
        source_parquet: As for `land_days`.
        landing_root: As for `land_days`.
        day: A trading day, not one of the first two.
        formats: As it was for `land_days`.

    Raises:
        ShopError: The day had no trade, or no two trading days lie before it.
    """
    with open_lines(source_parquet) as con:
        calendar = trading_days_of(con)
        extension = _format_of(day, calendar, formats)
        path = _path(landing_root, day, extension)
        select = _corrected_lines(day, late_by=_late_by(calendar, day))
        _copy(con, select, path, arrived=_next_morning(day) + timedelta(days=2), extension=extension)
        return path


def land_broken_file(source_parquet: Path, landing_root: Path, day: date) -> list[Path]:
    """Land a day that went wrong: a CSV with 12 good and 12 awful lines, and a gzip that the transfer cut off.

    The good lines (invoice 990001) are lines of the source's last day, moved to `day`.

    Args:
        source_parquet: As for `land_days`.
        landing_root: As for `land_days`.
        day: The day to land; best one on which the shop was closed, so that it has no other file.

    Returns:
        `invoice_lines_broken.csv` and `invoice_lines_cut.csv.gz`, both in the day's folder.
    """
    header, good = _good_lines(source_parquet, day)
    bad = _bad_lines(day)
    lines = [header]
    for index, line in enumerate(good):
        lines += [line, bad[index]]  # the unterminated quote is the last: whatever follows it belongs to it
    whole = gzip.compress(b"".join([header, *good]), mtime=0)
    files = {"invoice_lines_broken.csv": b"".join(lines), "invoice_lines_cut.csv.gz": whole[: len(whole) * 2 // 3]}
    paths = []
    for name, content in files.items():
        path = landing_root / FOLDER / day.isoformat() / name
        with _appearing(path, arrived=_next_morning(day)) as temporary:
            temporary.write_bytes(content)
        paths.append(path)
    return paths


def revenue(source_parquet: Path, corrected_day: date | None = None) -> Decimal:
    """Return the revenue in GBP that the data has, by one query of its own: what gold is held against.

    Each line counts once, if its customer is known, it is not cancelled and it has a price. For the whole data set that
    is `PUBLISHED_REVENUE`.

    Args:
        source_parquet: As for `land_days`.
        corrected_day: Take this day as `land_correction` delivers it; as it was if None.
    """
    with open_lines(source_parquet) as con:
        lines = "FROM lines"
        if corrected_day is not None:
            corrected = _corrected_lines(corrected_day, late_by=_late_by(trading_days_of(con), corrected_day))
            lines += f" WHERE InvoiceDate::DATE <> DATE '{corrected_day}' UNION ALL ({corrected})"
        (total,) = con.execute(
            f"SELECT sum(Quantity * UnitPrice) FROM (SELECT DISTINCT * FROM ({lines})) "
            "WHERE CustomerID IS NOT NULL AND InvoiceNo NOT LIKE 'C%' AND UnitPrice > 0"
        ).fetchone() or (None,)
        return Decimal(total or 0)


def _format_of(day: date, calendar: Sequence[date], formats: Sequence[str]) -> str:
    if day not in calendar:
        raise ShopError(
            f"the shop sold nothing on {day}: trading_days() lists its days ({calendar[0]} to {calendar[-1]})"
        )
    extension = formats[calendar.index(day) % len(formats)]
    if extension not in FORMATS:
        raise ShopError(f"unknown format {extension!r}: choose from {', '.join(FORMATS)}")
    return extension


def _path(landing_root: Path, day: date, extension: str) -> Path:
    return landing_root / FOLDER / day.isoformat() / f"invoice_lines.{extension}"


def _next_morning(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(1), UTC)


def _lines_of(day: date) -> str:
    return f"SELECT * FROM lines WHERE InvoiceDate::DATE = DATE '{day}' ORDER BY rowid"


def _late_by(calendar: Sequence[date], day: date) -> timedelta:
    """Give how long before a corrected day its late lines were sold."""
    place = calendar.index(day) - CORRECTION_LATE_TRADING_DAYS
    if place < 0:
        raise ShopError(f"{day} cannot be corrected: choose {calendar[CORRECTION_LATE_TRADING_DAYS]} or a later day")
    return day - calendar[place]


def _corrected_lines(day: date, *, late_by: timedelta) -> str:
    # Not count(*) OVER (): that crashes DuckDB 1.5.5 now and then (duckdb/duckdb#25713).
    return f"""
        WITH numbered AS (
            SELECT *, row_number() OVER (ORDER BY rowid) AS n FROM lines WHERE InvoiceDate::DATE = DATE '{day}'
        ), counted AS (
            SELECT max(n) AS total FROM numbered
        ), repriced AS (
            SELECT * REPLACE (
                CASE WHEN n = (SELECT min(n) FROM numbered WHERE UnitPrice > 0)
                THEN round(UnitPrice * 0.9, 3) ELSE UnitPrice END::DECIMAL(12, 3) AS UnitPrice
            ) FROM numbered, counted WHERE n <= total - {CORRECTION_REMOVED_LINES}
        ), late AS (
            SELECT * REPLACE (
                '{LATE_INVOICE}' AS InvoiceNo, InvoiceDate - INTERVAL {late_by.days} DAY AS InvoiceDate, total + n AS n
            ) FROM numbered, counted WHERE n <= {CORRECTION_LATE_LINES}
        )
        SELECT * EXCLUDE (n, total) FROM (FROM repriced UNION ALL FROM late) ORDER BY n"""


def _copy(con: duckdb.DuckDBPyConnection, select: str, path: Path, *, arrived: datetime, extension: str) -> None:
    with _appearing(path, arrived=arrived) as temporary:
        if extension == "avro":
            _write_avro(con, select, temporary)
        else:
            con.execute(f"COPY ({select}) TO {quote_text(str(temporary))} ({_COPY_OPTIONS[extension]})")


def _write_avro(con: duckdb.DuckDBPyConnection, select: str, path: Path) -> None:
    """Write Avro by polars: DuckDB 1.5.5's writer lost 67 of the year's 541,909 lines without a word.

    Polars has no Avro decimals, so the price is a double, and DuckDB reads no local timestamps, so the time is text;
    both as many exporters write them.
    """
    frame = con.sql(
        f"SELECT * REPLACE (UnitPrice::DOUBLE AS UnitPrice, InvoiceDate::VARCHAR AS InvoiceDate) FROM ({select})"
    ).pl()
    frame.write_avro(path, name="InvoiceLine")
    _fix_sync_marker(path)


def _fix_sync_marker(path: Path) -> None:
    """Derive the 16 bytes that end each block (and the file) from the content; the writer draws them from the clock."""
    content = path.read_bytes()
    drawn = content[-16:]
    path.write_bytes(content.replace(drawn, hashlib.sha256(content.replace(drawn, b"")).digest()[:16]))


@contextmanager
def _appearing(path: Path, *, arrived: datetime) -> Iterator[Path]:
    """Lend a temporary path beside `path`, which takes its name once it is complete, with the time of its arrival."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.utime(temporary, (arrived.timestamp(), arrived.timestamp()))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _good_lines(source_parquet: Path, day: date) -> tuple[bytes, list[bytes]]:
    """Give the header and some lines of the source's last day, as if sold on `day`."""
    with open_lines(source_parquet) as con:
        result = con.execute(
            f"SELECT * REPLACE ('{BROKEN_INVOICE}' AS InvoiceNo, DATE '{day}' + InvoiceDate::TIME AS InvoiceDate) "
            "FROM lines WHERE InvoiceDate::DATE = (SELECT max(InvoiceDate)::DATE FROM lines) "
            f"AND Quantity > 0 AND UnitPrice > 0 ORDER BY rowid LIMIT {BROKEN_GOOD_LINES}"
        )
        header = [name for name, *_ in result.description or []]
        return _csv_line(header), [_csv_line(row) for row in result.fetchall()]


def _csv_line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _bad_lines(day: date) -> list[bytes]:
    """Give lines that sources have really sent, with one fault each."""
    at = f"{day} 10:00:00"
    number = BROKEN_INVOICE
    return [
        f"{number},22423,REGENCY CAKESTAND 3 TIER,six,{at},12.75,17850,United Kingdom\n".encode(),  # no number
        f"{number},22423,REGENCY CAKESTAND 3 TIER,1.5,{at},12.75,17850,United Kingdom\n".encode(),  # no integer
        f"{number},22423,REGENCY CAKESTAND 3 TIER,99999999999999999999,{at},12.75,17850,United Kingdom\n".encode(),
        f'{number},22423,REGENCY CAKESTAND 3 TIER,6,{at},"12,75",17850,United Kingdom\n'.encode(),  # decimal comma
        f"{number},22423,REGENCY CAKESTAND 3 TIER,6,{at},1.23456,17850,United Kingdom\n".encode(),  # 5 decimals
        f"{number},22423,REGENCY CAKESTAND 3 TIER,6,31/13/2010 25:61,12.75,17850,United Kingdom\n".encode(),
        f"{number},22423,REGENCY CAKESTAND 3 TIER,6,{at},12.75,12x34,United Kingdom\n".encode(),  # no customer number
        f",22423,REGENCY CAKESTAND 3 TIER,6,{at},12.75,17850,United Kingdom\n".encode(),  # no invoice
        f"{number},22423,REGENCY CAKESTAND 3 TIER\n".encode(),  # columns are missing
        b"<html><body><h1>502 Bad Gateway</h1></body></html>\n",  # what a proxy wrote into the download
        f"{number},22423,CAKESTAND \xa312.75,6,{at},12.75,17850,United Kingdom\n".encode("latin-1"),  # not UTF-8
        f'{number},22423,"REGENCY CAKESTAND 3 TIER,6,{at},12.75,17850,United Kingdom\n'.encode(),  # open quote
    ]
