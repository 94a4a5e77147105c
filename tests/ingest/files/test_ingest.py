"""Files into bronze on real tables: each content once, corrected files, copies, waiting files, kills in between."""

import gzip
import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch import bronze_table
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource, Report
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import CommitConflictError, Lake, PositionMovedError, SchemaMismatchError, Table, held_days

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
DAY = date(2011, 1, 4)
OTHER_DAY = date(2011, 1, 5)


def line(number: int, *, day: date = DAY, price: str = "2.55", quantity: str = "6") -> str:
    return f"{536000 + number},85123A,HEART,{quantity},{day} 08:26:00,{price},17850,United Kingdom\n"


class Shop:
    """A landing folder and its lake."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / "lake"))
        self.source = LandingSource(
            "shop__lines",
            PathPattern.parse("lines/{date}/*"),
            contract("shop.InvoiceLines"),
            **options,  # type: ignore[arg-type]
        )
        self.con = self.lake.connect()
        self.bronze = Table(self.lake, "bronze.shop__lines")
        self.letters = Table(self.lake, "dead_letters.shop__lines")

    def land(self, name: str, content: str | bytes, *, age: float = 3600) -> Path:
        path = self.root / "lines" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    def ingest(self, first: date = DAY, last: date = DAY) -> Report:
        return landing.ingest(self.lake, self.con, self.source, self.root, first, last, settle_seconds=5)

    def audit(self) -> Findings:
        model = contract("shop.InvoiceLines")
        return audit(self.con, self.bronze, model, failure_budget=1, days=(DAY, DAY))

    def rows(self, columns: str = "invoice_no") -> list[object]:
        found = self.con.execute(f"SELECT {columns} FROM {self.bronze.scan()} ORDER BY ALL").fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def dead(self, columns: str = "_source.line, reason, raw") -> list[tuple[object, ...]]:
        if not self.letters.exists():
            return []
        return self.con.execute(f"SELECT {columns} FROM {self.letters.scan()} ORDER BY ALL").fetchall()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path)
    yield found
    found.con.close()


def outcomes(report: Report) -> dict[str, str]:
    return {file.file.removeprefix("lines/"): file.outcome for file in report.files}


def test_a_file_becomes_rows_that_say_where_they_came_from(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2))
    report = shop.ingest()
    assert report.total == Counts(records_in=2, rows=2, dead_letters=0)
    assert shop.rows("invoice_no, _partition_date, _source.file, _source.line") == [
        ("536001", DAY, "lines/2011-01-04/a.csv", 2),
        ("536002", DAY, "lines/2011-01-04/a.csv", 3),
    ]


def test_the_same_file_again_is_no_commit(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    version = shop.ingest().version
    again = shop.ingest()
    assert (again.version, again.unchanged, again.files) == (version, 1, [])


def test_a_touched_file_with_the_same_bytes_changes_no_row(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.ingest()
    before = shop.rows("*")
    shop.land("2011-01-04/a.csv", HEADER + line(1), age=600)
    assert shop.ingest().unchanged == 1
    assert shop.rows("*") == before


@pytest.mark.parametrize("name", ["2011-01-04/copy.csv", "2011-01-05/a.csv"])
def test_a_renamed_copy_is_recognised_wherever_it_lies(shop: Shop, name: str) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.ingest()
    shop.land(name, HEADER + line(1))
    report = shop.ingest(DAY, date(2011, 1, 5))
    assert outcomes(report) == {name: "copy"}
    assert shop.rows() == ["536001"]


def test_two_equal_files_in_one_run_are_read_once(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.land("2011-01-04/b.csv", HEADER + line(1))
    assert outcomes(shop.ingest()) == {"2011-01-04/a.csv": "new", "2011-01-04/b.csv": "copy"}
    assert shop.rows() == ["536001"]


def test_a_corrected_delivery_replaces_its_former_rows_in_one_commit(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2) + line(3, quantity="x"))
    shop.land("2011-01-04/b.csv", HEADER + line(9))
    version = shop.ingest().version
    shop.land("2011-01-04/a.csv", HEADER + line(2, price="9.99"), age=60)
    report = shop.ingest()
    assert outcomes(report) == {"2011-01-04/a.csv": "corrected"}
    assert report.version == version + 1
    assert shop.rows("invoice_no, unit_price::VARCHAR") == [("536002", "9.990"), ("536009", "2.550")]
    assert shop.dead() == []


def test_a_correction_that_is_taken_back_is_a_correction_too(shop: Shop) -> None:
    for age, number in ((300, 1), (200, 2), (100, 1)):
        shop.land("2011-01-04/a.csv", HEADER + line(number), age=age)
        shop.ingest()
    assert shop.rows() == ["536001"]


@pytest.mark.parametrize("copy", ["2011-01-04/b.csv", "2011-01-05/b.csv"])
def test_a_copy_is_read_when_its_original_is_corrected(shop: Shop, copy: str) -> None:
    """Else the outcome would depend on the order of deliveries: the folder holds both contents."""
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.land(copy, HEADER + line(1))
    shop.ingest(DAY, date(2011, 1, 5))
    shop.land("2011-01-04/a.csv", HEADER + line(2), age=60)
    shop.ingest(DAY, DAY)
    assert shop.rows("invoice_no, _source.file") == [
        ("536001", f"lines/{copy}"),
        ("536002", "lines/2011-01-04/a.csv"),
    ]


@pytest.mark.parametrize("order", [("2011-01-04/b.csv", "2011-01-05/a.csv"), ("2011-01-05/a.csv", "2011-01-04/b.csv")])
def test_the_first_day_and_name_owns_a_content_in_whatever_order_it_came(shop: Shop, order: tuple[str, str]) -> None:
    for name in order:
        shop.land(name, HEADER + line(1) + line(2, quantity="x"))
        day = date.fromisoformat(name[:10])
        shop.ingest(day, day)
    assert shop.rows("_source.file, _partition_date") == [("lines/2011-01-04/b.csv", DAY)]
    assert shop.dead("_source.file, _partition_date") == [("lines/2011-01-04/b.csv", DAY)]


def test_an_archived_file_keeps_its_rows(shop: Shop) -> None:
    path = shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.ingest()
    path.unlink()
    shop.land("2011-01-04/b.csv", HEADER + line(2))
    shop.ingest()
    assert shop.rows() == ["536001", "536002"]


def test_a_file_still_being_written_waits(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.land("2011-01-04/growing.csv", HEADER + line(2), age=0)
    shop.land("2011-01-04/b.csv.part", HEADER + line(3))
    shop.land("2011-01-04/.c.csv.tmp", HEADER + line(4))
    assert outcomes(shop.ingest()) == {"2011-01-04/a.csv": "new", "2011-01-04/growing.csv": "waiting"}
    assert shop.rows() == ["536001"]


def test_a_file_that_changes_while_it_is_read_waits_and_leaves_no_row(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_assets.ingest.files import read_file

    path = shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2, quantity="x"))
    real = read_file.open_records

    def open_and_grow(*args: object, **options: object) -> object:
        records = real(*args, **options)  # type: ignore[arg-type]
        with path.open("a") as file:
            file.write(line(3))
        return records

    monkeypatch.setattr(read_file, "open_records", open_and_grow)
    assert outcomes(shop.ingest()) == {"2011-01-04/a.csv": "waiting"}
    assert (shop.rows(), shop.dead()) == ([], [])
    monkeypatch.undo()
    os.utime(path, (1e9, 1e9))
    assert shop.ingest().total == Counts(records_in=3, rows=2, dead_letters=1)


def test_bad_files_cost_nothing_but_themselves(shop: Shop) -> None:
    good = HEADER + line(1)
    whole = gzip.compress((HEADER + line(2) * 5000).encode())
    shop.land("2011-01-04/a.csv", good)
    shop.land("2011-01-04/b.csv.gz", whole[: len(whole) // 2])
    shop.land("2011-01-04/c.parquet", b"PAR1 no parquet")
    shop.land("2011-01-04/d.csv", "Wrong,Header\n1,2\n")
    shop.land("2011-01-04/e.csv", b"")
    shop.land("2011-01-04/f.csv", "\ufeff" + HEADER.replace("\n", "\r\n") + line(3).replace("\n", "\r\n"))
    shop.land("2011-01-04/g.csv", HEADER.encode() + line(4).encode().replace(b"HEART", b"H\xc4RT"))
    shop.land("2011-01-04/h.csv", HEADER + line(5).replace("HEART", '"a ""b"",\nc"') + line(6))
    shop.land("2011-01-04/i.csv", HEADER + line(7).replace("HEART", "z" * 17_000_000) + line(8))
    shop.land("2011-01-04/k.json", '[{"InvoiceNo": "536010"')
    (shop.root / "lines/2011-01-04/j.csv").mkdir()
    report = shop.ingest()
    assert shop.rows("invoice_no, _source.line") == [
        ("536001", 2), ("536003", 2), ("536005", 2), ("536006", 4), ("536008", 3),
    ]  # fmt: skip
    reasons = {file.removeprefix("lines/2011-01-04/")[0]: reason for file, reason in shop.dead("_source.file, reason")}
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "b": "file", "c": "file", "d": "header", "e": "file", "g": "encoding", "i": "line too long", "k": "json",
    }  # fmt: skip
    assert report.total.records_in == report.total.rows + report.total.dead_letters
    findings = shop.audit()
    assert (findings.mismatches, findings.total) == ([], report.total)


@pytest.mark.parametrize("text", ["<html>502 Bad Gateway</html>\n", line(1), "foo,bar\n"])
def test_a_line_that_is_no_header_is_a_dead_letter_not_an_empty_delivery(shop: Shop, text: str) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.ingest()
    shop.land("2011-01-04/a.csv", text, age=60)
    report = shop.ingest()
    assert report.total == Counts(records_in=1, rows=0, dead_letters=1)
    ((number, reason, raw),) = shop.dead()
    assert (number, str(reason)[:14], raw) == (1, "header: lacks ", text.strip())
    assert shop.audit().mismatches == []


def test_a_header_without_records_is_an_empty_delivery(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER)
    assert shop.ingest().total == Counts()
    assert shop.dead() == []


def test_two_empty_files_are_two_failures(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", "")
    shop.land("2011-01-05/a.csv", "")
    shop.ingest(DAY, date(2011, 1, 5))
    assert [file for (file,) in shop.dead("_source.file")] == ["lines/2011-01-04/a.csv", "lines/2011-01-05/a.csv"]
    assert shop.ingest(DAY, date(2011, 1, 5)).unchanged == 2


def test_reconciliation_notices_a_row_too_few(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2))
    shop.ingest()
    shop.bronze.replace(shop.con, f"SELECT * FROM {shop.bronze.scan()} WHERE FALSE", where="invoice_no = '536002'")
    wrong = shop.audit().mismatches
    assert [(one.reading.origin, one.reading.counts.records_in, one.rows) for one in wrong] == [
        ("lines/2011-01-04/a.csv", 2, 1)
    ]
    assert held_days(shop.bronze) == {DAY}


def test_counts_are_kept_in_the_commit(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2, quantity="x"))
    shop.ingest()
    commit = shop.bronze.open().history(1)[0]
    assert (commit["records_in"], commit["rows"], commit["dead_letters"]) == ("2", "1", "1")


def test_commits_list_event_days_of_rows_that_came_and_went(shop: Shop) -> None:
    late = date(2011, 1, 2)
    shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2, day=late))
    shop.ingest()
    assert shop.bronze.open().history(1)[0]["touched_dates"] == '["2011-01-02", "2011-01-04"]'
    shop.land("2011-01-04/a.csv", HEADER + line(1), age=60)
    shop.ingest()
    assert shop.bronze.open().history(1)[0]["touched_dates"] == '["2011-01-02", "2011-01-04"]'


def test_another_run_that_was_faster_makes_this_one_plan_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    real = Batch.commit
    calls = []

    def overtaken(batch: Batch) -> int:
        calls.append(1)
        if len(calls) == 1:
            with shop.lake.connect() as other:
                landing.ingest(shop.lake, other, shop.source, shop.root, DAY, DAY, settle_seconds=5)
        return real(batch)

    monkeypatch.setattr(Batch, "commit", overtaken)
    report = shop.ingest()
    assert shop.rows() == ["536001"]
    assert report.unchanged == 1


def test_runs_of_other_days_do_not_make_this_one_plan_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1) + line(2, quantity="many"))
    real, readings = landing.read_all, []

    def slow(reader: Any, deliveries: Any, shape: Any) -> list[Any]:
        found = list(real(reader, deliveries, shape))
        if deliveries and deliveries[0].file.date == DAY:
            readings.append(1)
            shop.land("2011-01-05/a.csv", HEADER + line(len(readings) + 2) + line(9, quantity="many"))
            with shop.lake.connect() as other:
                landing.ingest(shop.lake, other, shop.source, shop.root, OTHER_DAY, OTHER_DAY, settle_seconds=5)
        return found

    monkeypatch.setattr(landing, "read_all", slow)
    shop.ingest()
    assert readings == [1]


def test_a_run_that_is_always_overtaken_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(batch: Batch) -> int:
        raise PositionMovedError("bronze.shop__lines", {})

    shop.land("2011-01-04/a.csv", HEADER + line(1))
    monkeypatch.setattr(Batch, "commit", moved)
    with pytest.raises(CommitConflictError):
        shop.ingest()


def test_unknown_fields_are_rescued_or_become_columns(tmp_path: Path) -> None:
    kept = Shop(tmp_path / "kept")
    wider = HEADER.strip() + ",Loyalty Card\n" + line(1).strip() + ",gold\n"
    kept.land("2011-01-04/a.csv", wider)
    kept.ingest()
    assert kept.rows("_rescued") == ['{"Loyalty Card":"gold"}']
    grown = Shop(tmp_path / "grown", schema_evolution=True)
    grown.land("2011-01-04/a.csv", HEADER + line(2))
    grown.ingest()
    grown.land("2011-01-04/b.csv", wider)
    grown.ingest()
    assert grown.rows("invoice_no, loyalty_card, _rescued") == [("536001", "gold", None), ("536002", None, None)]


@pytest.mark.parametrize("second", [HEADER + line(3, quantity="y"), HEADER + line(3)])
@pytest.mark.parametrize("table", ["bronze.", "dead_letters."])
def test_dead_letters_survive_a_run_that_is_killed_around_its_commits(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, second: str, table: str
) -> None:
    """Killed before the rows, or before the letters that are no longer true; then the file is put back."""
    first = HEADER + line(1) + line(2, quantity="x")
    shop.land("2011-01-04/a.csv", first)
    shop.ingest()
    expected = shop.dead()

    def killed(self: Table, *args: object, **options: object) -> int:
        if self.name.startswith(table):
            raise KeyboardInterrupt
        return real(self, *args, **options)  # type: ignore[arg-type]

    real = Table.commit
    monkeypatch.setattr(Table, "commit", killed)
    shop.land("2011-01-04/a.csv", second, age=60)
    with pytest.raises(KeyboardInterrupt):
        shop.ingest()
    monkeypatch.undo()
    shop.land("2011-01-04/a.csv", first, age=30)
    shop.ingest()
    assert shop.rows() == ["536001"]
    assert shop.dead() == expected
    assert shop.audit().mismatches == []


@pytest.mark.parametrize("corrected", [["2011-01-04", "2011-01-05"], ["2011-01-04"]])
def test_a_content_outlives_all_corrections_while_any_file_holds_it(shop: Shop, corrected: list[str]) -> None:
    for day in ("2011-01-06", "2011-01-05", "2011-01-04"):
        shop.land(f"{day}/a.csv", HEADER + line(1))
        shop.ingest(date.fromisoformat(day), date.fromisoformat(day))
    for number, day in enumerate(corrected, 5):
        shop.land(f"{day}/a.csv", HEADER + line(number), age=60)
        shop.ingest(date.fromisoformat(day), date.fromisoformat(day))
    assert shop.rows().count("536001") == 1
    assert len(shop.rows()) == 1 + len(corrected)


def test_a_link_out_of_the_landing_folder_is_not_followed(shop: Shop, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    (shop.root / "lines/2011-01-04/b.csv").symlink_to(secret)
    assert outcomes(shop.ingest()) == {"2011-01-04/a.csv": "new"}
    assert shop.dead() == []


def test_a_file_whose_name_is_not_utf8_costs_only_itself(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.land(os.fsdecode(b"2011-01-04/caf\xe9.csv"), HEADER + line(2))
    assert outcomes(shop.ingest()) == {"2011-01-04/a.csv": "new"}
    assert "rename it" in caplog.text


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("TIMESTAMP_NS '2011-01-04 08:26:00.123456'", "2011-01-04 08:26:00.123456"),
        ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("TIME '08:26:00'", None),
        ("[1, 2]", None),
    ],
)
def test_columns_that_evolution_adds_have_types_that_every_reader_knows(
    tmp_path: Path, sql: str, shown: str | None
) -> None:
    grown = Shop(tmp_path, schema_evolution=True)
    path = grown.root / "lines/2011-01-04/a.parquet"
    path.parent.mkdir(parents=True)
    columns = (
        "'536001' InvoiceNo, '1' StockCode, '' Description, 1::BIGINT Quantity, 17850::BIGINT CustomerID, 'UK' Country"
    )
    grown.con.execute(
        f"COPY (SELECT {columns}, TIMESTAMP '2011-01-04' InvoiceDate, 2.55::DECIMAL(12, 3) UnitPrice, "
        f"{sql} AS extra) TO '{path}'"
    )
    os.utime(path, (1e9, 1e9))
    grown.ingest()
    grown.land("2011-01-04/b.csv", HEADER + line(2))
    grown.ingest()
    if shown is None:
        assert '"extra"' in str(grown.rows("_rescued")[0])
    else:
        assert grown.rows("extra::VARCHAR")[0] == shown


def test_a_contract_that_no_longer_fits_the_table_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_assets.contracts.base import RawColumn, RawShape

    shop.land("2011-01-04/a.csv", HEADER + line(1))
    shop.ingest()
    changed = RawShape((RawColumn("quantity", "VARCHAR"),))
    monkeypatch.setattr(bronze_table, "raw_shape", lambda model: changed)
    with pytest.raises(SchemaMismatchError, match="quantity is VARCHAR in the contract, BIGINT in the table"):
        shop.ingest()


def test_an_empty_folder_is_no_error(shop: Shop) -> None:
    report = shop.ingest()
    assert (report.files, shop.rows()) == ([], [])


def test_a_whole_file_of_dead_letters_is_in_the_table_of_them_only(shop: Shop) -> None:
    shop.land("2011-01-04/a.csv", HEADER + line(1, quantity="x") + line(2, price="free"))
    shop.ingest()
    assert shop.rows() == []
    assert [reason for _, reason, _ in shop.dead()] == [
        "cast: quantity: 'x' is not BIGINT",
        "cast: unit_price: 'free' is not DECIMAL(12,3)",
    ]


def test_a_file_that_cannot_be_read_weighs_as_its_lines(shop: Shop) -> None:
    good = HEADER + "".join(line(number) for number in range(600))
    shop.land("2011-01-04/a.csv", good)
    shop.land("2011-01-04/b.csv", (good + line(1)).encode("utf-16"))
    report = shop.ingest()
    assert report.total == Counts(records_in=1202, rows=600, dead_letters=602)
    assert shop.dead("_source.line, records") == [(None, 602)]
    findings = audit(shop.con, shop.bronze, contract("shop.InvoiceLines"), failure_budget=0.4, days=(DAY, DAY))
    assert (findings.mismatches, findings.total, findings.held) == ([], report.total, {DAY})
    assert "602" in [commit.get("dead_letters") for commit in shop.bronze.open().history()]
