"""The demo's shop: real files in tmp_path, read back with DuckDB."""

import gzip
import hashlib
from datetime import UTC, date, datetime
from pathlib import Path
from time import sleep

import duckdb
import pytest

from pipeline_assets.demo import shop
from pipeline_assets.demo.shop import (
    DEMO_PARQUET,
    FORMATS,
    ShopError,
    land_broken_file,
    land_correction,
    land_days,
    trading_days,
)
from pipeline_assets.lake.storage import load_extension

READERS = {
    "csv": "read_csv('{}')",
    "csv.gz": "read_csv('{}')",
    "jsonl": "read_json('{}')",
    "jsonl.zst": "read_json('{}')",
    "json": "read_json('{}')",
    "parquet": "read_parquet('{}')",
    "avro": "read_avro('{}')",
}


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    root = tmp_path_factory.mktemp("landing it's")
    return root, land_days(DEMO_PARQUET, root)


def rows(path: Path) -> list[tuple[object, ...]]:
    reader = READERS[path.name.partition(".")[2]].format(str(path).replace("'", "''"))
    with duckdb.connect() as con:
        load_extension(con, "avro")
        return con.execute(
            "SELECT InvoiceNo::VARCHAR, StockCode::VARCHAR, nullif(Description, ''), Quantity::INTEGER, "
            f"InvoiceDate::TIMESTAMP, UnitPrice::DECIMAL(12, 3), CustomerID::INTEGER, Country FROM {reader}"
        ).fetchall()


def fingerprints(root: Path) -> dict[str, tuple[str, int]]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def test_the_demo_has_thirty_trading_days_from_the_first_of_december() -> None:
    days = trading_days(DEMO_PARQUET)
    assert (len(days), days[0], days[-1]) == (30, date(2010, 12, 1), date(2011, 1, 14))


def test_each_trading_day_is_one_file_below_its_date_and_formats_take_turns(landed: tuple[Path, list[Path]]) -> None:
    root, paths = landed
    expected = [
        root / "shop" / "invoice_lines" / str(day) / f"invoice_lines.{FORMATS[i % len(FORMATS)]}"
        for i, day in enumerate(trading_days(DEMO_PARQUET))
    ]
    assert paths == expected
    assert sorted(path for path in root.rglob("*") if path.is_file()) == sorted(paths)  # no temporary file stays


def test_every_format_gives_back_the_lines_of_its_day_in_their_order(landed: tuple[Path, list[Path]]) -> None:
    _, paths = landed
    source = rows(DEMO_PARQUET)
    for path in paths:
        assert rows(path) == [row for row in source if str(row[4]).startswith(path.parent.name)], path


def test_a_file_is_as_old_as_the_morning_after_its_day(landed: tuple[Path, list[Path]]) -> None:
    _, paths = landed
    assert paths[0].stat().st_mtime == datetime(2010, 12, 2, 1, tzinfo=UTC).timestamp()


def test_landing_again_in_other_portions_changes_no_byte_and_no_file_time(
    landed: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    root, _ = landed
    days = trading_days(DEMO_PARQUET)
    land_days(DEMO_PARQUET, tmp_path, days=days[20:])
    land_days(DEMO_PARQUET, tmp_path, days=days[19::-1])
    land_days(DEMO_PARQUET, tmp_path, days=days[5:7])
    assert fingerprints(tmp_path) == fingerprints(root)


def test_a_day_without_trade_is_refused_with_the_days_there_are(tmp_path: Path) -> None:
    with pytest.raises(ShopError, match=r"sold nothing on 2010-12-04.*2010-12-01 to 2011-01-14"):
        land_days(DEMO_PARQUET, tmp_path, days=[date(2010, 12, 4)])


def test_an_unknown_format_is_refused_with_the_formats_there_are(tmp_path: Path) -> None:
    with pytest.raises(ShopError, match="unknown format 'xlsx': choose from csv"):
        land_days(DEMO_PARQUET, tmp_path, formats=["xlsx"])
    assert list(tmp_path.iterdir()) == []


def test_a_correction_replaces_the_file_and_changes_exactly_what_it_says(tmp_path: Path) -> None:
    days = trading_days(DEMO_PARQUET)
    day = days[8]
    (path,) = land_days(DEMO_PARQUET, tmp_path, days=[day])
    before, arrived = rows(path), path.stat().st_mtime
    assert land_correction(DEMO_PARQUET, tmp_path, day) == path
    after = rows(path)

    kept, late = after[: -shop.CORRECTION_LATE_LINES], after[-shop.CORRECTION_LATE_LINES :]
    assert len(kept) == len(before) - shop.CORRECTION_REMOVED_LINES
    changed = [(old, new) for old, new in zip(before, kept, strict=False) if old != new]
    assert len(changed) == 1
    (old, new), *_ = changed
    assert old[:5] + old[6:] == new[:5] + new[6:]
    assert float(str(new[5])) == pytest.approx(float(str(old[5])) * 0.9, abs=0.0006)
    assert [row[0] for row in late] == ["990002", "990002"]
    assert {row[4].date() for row in late if isinstance(row[4], datetime)} == {days[6]}
    assert path.stat().st_mtime == arrived + 2 * 86400
    assert len(list(path.parent.iterdir())) == 1


def test_one_of_the_first_two_days_cannot_be_corrected(tmp_path: Path) -> None:
    with pytest.raises(ShopError, match="choose 2010-12-03 or a later day"):
        land_correction(DEMO_PARQUET, tmp_path, date(2010, 12, 2))


def test_a_broken_day_mixes_good_and_bad_lines_and_ends_in_an_open_quote(tmp_path: Path) -> None:
    text, cut = land_broken_file(DEMO_PARQUET, tmp_path, date(2011, 1, 15))
    lines = text.read_bytes().splitlines()
    good = [line for line in lines[1::2] if line.startswith(b"990001,")]
    assert len(lines) == 1 + shop.BROKEN_GOOD_LINES + shop.BROKEN_BAD_LINES
    assert b"\xa3" in text.read_bytes()
    assert lines[-1].count(b'"') == 1
    assert len(good) == shop.BROKEN_GOOD_LINES
    assert cut.parent == text.parent


def test_the_cut_gzip_of_a_broken_day_really_is_truncated(tmp_path: Path) -> None:
    _, cut = land_broken_file(DEMO_PARQUET, tmp_path, date(2011, 1, 15))
    with pytest.raises(EOFError), gzip.open(cut) as file:
        file.read()


def test_avro_files_are_the_same_whenever_they_are_written(tmp_path: Path) -> None:
    day = trading_days(DEMO_PARQUET)[FORMATS.index("avro")]
    contents = set()
    for second in range(3):  # the extension seeds its random sync marker with the second
        if second:
            sleep(1.01)
        (path,) = land_days(DEMO_PARQUET, tmp_path, days=[day])
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_broken_day_is_the_same_each_time(tmp_path: Path) -> None:
    land_broken_file(DEMO_PARQUET, tmp_path / "a", date(2011, 1, 15))
    land_broken_file(DEMO_PARQUET, tmp_path / "b", date(2011, 1, 15))
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")


def test_revenue_is_that_of_the_landed_files_before_and_after_the_correction(tmp_path: Path) -> None:
    days = trading_days(DEMO_PARQUET)
    land_days(DEMO_PARQUET, tmp_path)

    def landed_revenue() -> object:
        lines = [row for path in tmp_path.rglob("invoice_lines.*") for row in rows(path)]
        sold = [(row[3], row[5]) for row in set(lines) if row[6] is not None and str(row[0])[0] != "C" and row[5] > 0]
        return sum(quantity * price for quantity, price in sold)

    assert shop.revenue(DEMO_PARQUET) == landed_revenue()
    land_correction(DEMO_PARQUET, tmp_path, days[15])
    assert shop.revenue(DEMO_PARQUET, days[15]) == landed_revenue()
    assert shop.revenue(DEMO_PARQUET, days[15]) != shop.revenue(DEMO_PARQUET)


def test_the_first_days_cannot_be_corrected() -> None:
    with pytest.raises(ShopError, match="2010-12-02 cannot be corrected: choose 2010-12-03 or a later day"):
        shop.revenue(DEMO_PARQUET, date(2010, 12, 2))
