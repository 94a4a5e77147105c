"""The spine of pulls on real tables: rows, dead letters and duplicates of a batch in one commit, or nothing at all."""

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import pytest
from pulled import Payments, at, listed

from pipeline_assets.ingest.batch import batch as batch_module
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.batch.errors import BatchError
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan, RowSource
from pipeline_assets.lake import Lake, PositionMovedError, SchemaMismatchError, Table, query_schema

DAY = date(2026, 1, 5)


class Bank:
    """A lake, and pulls of a list of payments into it."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.lake = Lake(str(folder / "lake"))
        self.con = self.lake.connect()
        self.source = RowSource("bank__payments", Payments, ("payment_id",), **options)  # type: ignore[arg-type]
        self.bronze = Table(self.lake, "bronze.bank__payments")
        self.letters = Table(self.lake, "dead_letters.bank__payments")

    def batch(self, start: int | None = None, end: int = 1, **options: object) -> RowPlan:
        given = {"expect": {"watermark": start}, "positions": {"watermark": end}, "partition_date": DAY,
                 "extracted_at": at("2026-01-05 01:00"), **options}  # fmt: skip
        return RowPlan(name="watermark", start=str(start or ""), end=str(end), **given)  # type: ignore[arg-type]

    def pull(self, *records: tuple[object, ...], batch: RowPlan | None = None, run_id: str = "") -> RowBatch:
        with RowBatch(self.lake, self.con, self.source, batch or self.batch(), run_id=run_id) as pull:
            pull.add(listed(*records), origin="public.payments", counted=lambda: len(records))
            pull.commit()
        return pull

    def rows(self, columns: str = "payment_id, amount::VARCHAR, note") -> list[tuple[object, ...]]:
        return self.con.execute(f"SELECT {columns} FROM {self.bronze.scan()} ORDER BY ALL").fetchall()

    def dead(self, columns: str = "_source.line, reason, raw") -> list[tuple[object, ...]]:
        return self.con.execute(f"SELECT {columns} FROM {self.letters.scan()} ORDER BY ALL").fetchall()

    def audit(self, budget: float = 1) -> Findings:
        return audit(self.con, self.bronze, Payments, failure_budget=budget, days=(DAY, DAY))

    def files(self) -> list[Path]:
        return sorted(Path(self.bronze.uri).rglob("*.parquet"))


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    found = Bank(tmp_path)
    yield found
    found.con.close()


def row(number: int, amount: str = "1.50", note: str | None = "a", updated: str = "2026-01-05 00:00:00+00") -> tuple:
    return number, amount, note, updated


def test_records_become_rows_that_say_where_they_came_from(bank: Bank) -> None:
    pulled = bank.pull(row(1), row(2, note=None))
    assert pulled.counts == Counts(records_in=2, rows=2)
    assert bank.rows("payment_id, note, _source.file, _source.line, _batch_id, _partition_date, _deleted") == [
        (1, "a", "public.payments", 1, "watermark ..1", DAY, False),
        (2, None, "public.payments", 2, "watermark ..1", DAY, False),
    ]
    assert bank.bronze.position("watermark") == 1


def test_misfits_are_dead_letters_that_name_the_column(bank: Bank) -> None:
    pulled = bank.pull(row(1), row(2, amount="NaN"), row(3, updated="infinity"))
    assert pulled.counts == Counts(records_in=3, rows=1, dead_letters=2)
    assert [reason for _, reason, _ in bank.dead()] == [
        "cast: amount: 'NaN' is not DECIMAL(12,2)",
        "cast: updated_at: 'infinity' is not TIMESTAMP WITH TIME ZONE",
    ]
    assert len(bank.files()) == 1, "the file with the misfits is left behind"


def test_a_commit_keeps_the_counts_and_the_audit_finds_them(bank: Bank) -> None:
    bank.pull(row(1), row(2, amount="x"))
    findings = bank.audit()
    assert (findings.total.records_in, findings.total.rows, findings.total.dead_letters) == (2, 1, 1)
    assert findings.contract.passed
    assert not findings.mismatches
    assert bank.audit(budget=0.4).over == {DAY}


def test_the_audit_finds_a_row_that_went(bank: Bank) -> None:
    bank.pull(row(1), row(2))
    bank.bronze.commit(bank.con, [], where="payment_id = 2")
    assert [
        (found.reading.origin, found.reading.counts.records_in, found.rows) for found in bank.audit().mismatches
    ] == [("public.payments", 2, 1)]


def test_batches_between_two_audits_are_all_reconciled(bank: Bank) -> None:
    bank.pull(row(1))
    bank.pull(row(2), row(3), batch=bank.batch(1, 2))
    assert bank.audit().total.records_in == 3


def test_who_was_slower_does_not_take_the_dead_letters_of_who_was_faster(bank: Bank) -> None:
    slower = bank.batch()
    bank.pull(row(1, amount="x"))
    with pytest.raises(PositionMovedError):
        bank.pull(row(2, amount="y"), batch=slower)
    assert [reason for (reason,) in bank.dead("reason")] == ["cast: amount: 'x' is not DECIMAL(12,2)"]


def test_who_is_overtaken_while_committing_takes_nobodys_dead_letters(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = batch_module.record

    def overtaken(*given: object, **named: object) -> None:
        monkeypatch.setattr(batch_module, "record", record)
        with bank.con.cursor() as other, RowBatch(bank.lake, other, bank.source, bank.batch()) as faster:
            faster.add(listed(row(1, amount="x")), origin="public.payments", counted=lambda: 1)
            faster.commit()
        record(*given, **named)  # type: ignore[arg-type]

    with RowBatch(bank.lake, bank.con, bank.source, bank.batch()) as slower:
        slower.add(listed(row(2, amount="y")), origin="public.payments", counted=lambda: 1)
        monkeypatch.setattr(batch_module, "record", overtaken)
        with pytest.raises(PositionMovedError):
            slower.commit()
    assert [reason for (reason,) in bank.dead("reason")] == ["cast: amount: 'x' is not DECIMAL(12,2)"]
    assert not bank.audit().mismatches


def test_who_is_overtaken_by_a_batch_without_dead_letters_leaves_none_of_its_own(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.pull(row(1))
    record = batch_module.record

    def overtaken(*given: object, **named: object) -> None:
        monkeypatch.setattr(batch_module, "record", record)
        with bank.con.cursor() as other, RowBatch(bank.lake, other, bank.source, bank.batch(1, 2)) as faster:
            faster.add(listed(row(2)), origin="public.payments", counted=lambda: 1)
            faster.commit()
        record(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_module, "record", overtaken)
    with pytest.raises(PositionMovedError):
        bank.pull(row(2), row(3, amount="x"), batch=bank.batch(1, 3, may_repeat="TRUE"))
    assert bank.dead() == []
    again = bank.pull(row(2), row(3, amount="x"), batch=bank.batch(2, 4, may_repeat="TRUE"))
    assert again.counts == Counts(records_in=2, dead_letters=1, duplicates=1)


def test_dead_letters_of_a_table_that_was_deleted_go_with_its_first_pull(bank: Bank) -> None:
    bank.pull(row(1, amount="x"), row(2))
    bank.pull(row(3, amount="y"), batch=bank.batch(1, 2))
    shutil.rmtree(bank.bronze.uri)
    bank.pull(row(1), row(2), row(3, amount="z"))
    assert [reason for (reason,) in bank.dead("reason")] == ["cast: amount: 'z' is not DECIMAL(12,2)"]


def test_a_position_that_moved_commits_nothing(bank: Bank) -> None:
    bank.pull(row(1))
    with pytest.raises(PositionMovedError, match="plan the batch again"):
        bank.pull(row(2))
    assert [found[0] for found in bank.rows()] == [1]
    assert len(bank.files()) == 1


def test_records_that_go_missing_commit_nothing(bank: Bank) -> None:
    with (
        RowBatch(bank.lake, bank.con, bank.source, bank.batch()) as pull,
        pytest.raises(BatchError, match="sent 2 records"),
    ):
        pull.add(listed(row(1)), origin="public.payments", counted=lambda: 2)
    assert bank.rows() == []
    assert bank.files() == []


def test_an_error_while_reading_leaves_no_file(bank: Bank) -> None:
    def interrupted() -> int:
        raise BatchError("the connection was lost")

    with (
        pytest.raises(BatchError, match="connection was lost"),
        RowBatch(bank.lake, bank.con, bank.source, bank.batch()) as pull,
    ):
        pull.add(listed(row(1)), origin="public.payments", counted=interrupted)
    assert bank.files() == []


def test_a_required_column_that_the_source_lacks_is_an_error(bank: Bank) -> None:
    with (
        RowBatch(bank.lake, bank.con, bank.source, bank.batch()) as pull,
        pytest.raises(
            BatchError, match=r"public.payments has no column amount, which .*bronze.bank__payments requires"
        ),
    ):
        pull.add(listed((1,), names="payment_id"), origin="public.payments", counted=lambda: 1)


def test_another_type_in_the_table_than_in_the_contract_is_an_error(bank: Bank) -> None:
    bank.bronze.create(query_schema(bank.con, "SELECT 'x' AS payment_id"))
    with pytest.raises(SchemaMismatchError, match="payment_id is BIGINT in the contract, VARCHAR in the table"):
        bank.pull(row(1))


def test_unknown_fields_are_rescued_or_become_columns(tmp_path: Path) -> None:
    for evolve, expected in ((False, [(1, '{"colour":"red"}')]), (True, [(1, None)])):
        bank = Bank(tmp_path / str(evolve), schema_evolution=evolve)
        records = listed((1, "1", "red"), names="payment_id amount colour")
        with RowBatch(bank.lake, bank.con, bank.source, bank.batch(may_repeat="TRUE")) as pull:
            pull.add(records, origin="public.payments", counted=lambda: 1)
            pull.commit()
        assert bank.rows("payment_id, _rescued") == expected
        if evolve:
            assert bank.rows("colour") == [("red",)]
        bank.con.close()


def test_several_origins_are_one_commit_and_reconciled_each(bank: Bank) -> None:
    with RowBatch(bank.lake, bank.con, bank.source, bank.batch()) as pull:
        pull.add(listed(row(1), row(2, amount="x")), origin="page 1", counted=lambda: 2)
        pull.add(listed(row(3)), origin="page 2", counted=lambda: 1)
        pull.commit()
    assert pull.counts == Counts(3, 2, 1)
    assert bank.rows("_source.file, payment_id") == [("page 1", 1), ("page 2", 3)]
    assert bank.audit().readings == 2


class TestRepeats:
    """What is read again, and equals the newest row of its key, is a duplicate."""

    def test_equal_rows_are_left_out_and_counted(self, bank: Bank) -> None:
        bank.pull(row(1), row(2, note=None))
        again = bank.batch(1, 2, may_repeat="TRUE", extracted_at=at("2026-01-05 02:00"))
        pulled = bank.pull(row(1), row(2, note=None), row(3), batch=again)
        assert pulled.counts == Counts(records_in=3, rows=1, duplicates=2)
        assert [found[0] for found in bank.rows()] == [1, 2, 3]
        assert not bank.audit().mismatches

    def test_a_changed_row_is_news_and_so_is_one_that_changed_back(self, bank: Bank) -> None:
        bank.pull(row(1, note="a"))
        bank.pull(row(1, note="b"), batch=bank.batch(1, 2, may_repeat="TRUE", extracted_at=at("2026-01-05 02:00")))
        bank.pull(row(1, note="a"), batch=bank.batch(2, 3, may_repeat="TRUE", extracted_at=at("2026-01-05 03:00")))
        pulled = bank.pull(
            row(1, note="a"), batch=bank.batch(3, 4, may_repeat="TRUE", extracted_at=at("2026-01-05 04:00"))
        )
        assert [note for _, _, note in bank.rows()] == ["a", "a", "b"]
        assert pulled.counts == Counts(records_in=1, duplicates=1)

    def test_equal_records_of_one_batch_are_one_row(self, bank: Bank) -> None:
        pulled = bank.pull(row(1), row(1), row(1, note="b"), batch=bank.batch(may_repeat="false"))
        assert pulled.counts == Counts(records_in=3, rows=2, duplicates=1)

    def test_only_rows_that_may_come_again_are_looked_at(self, bank: Bank) -> None:
        bank.pull(row(1))
        pulled = bank.pull(row(1), batch=bank.batch(1, 2, may_repeat="_partition_date > DATE '2026-01-05'"))
        assert pulled.counts == Counts(records_in=1, rows=1)

    def test_a_dead_letter_that_is_read_again_is_no_second_one(self, bank: Bank) -> None:
        bank.pull(row(1, amount="x"))
        pulled = bank.pull(row(1, amount="x"), row(2, amount="y"), batch=bank.batch(1, 2, may_repeat="TRUE"))
        assert pulled.counts == Counts(records_in=2, dead_letters=1, duplicates=1)
        assert len(bank.dead()) == 2
        assert not bank.audit().mismatches

    def test_a_row_that_was_deleted_may_come_back(self, bank: Bank) -> None:
        bank.pull(row(1))
        later = "true AS _deleted, _extracted_at + INTERVAL 1 HOUR AS _extracted_at"
        gone = f"SELECT * REPLACE ({later}) FROM {bank.bronze.scan()}"
        bank.bronze.append(bank.con, gone, batch_id="tombstone")
        pulled = bank.pull(row(1), batch=bank.batch(1, 2, may_repeat="TRUE", extracted_at=at("2026-01-05 03:00")))
        assert pulled.counts == Counts(records_in=1, rows=1)

    def test_what_the_reading_left_out_counts_too(self, bank: Bank) -> None:
        with RowBatch(bank.lake, bank.con, bank.source, bank.batch()) as pull:
            pull.add(listed(row(1)), origin="page 1", counted=lambda: 1, removed=2)
            pull.commit()
            assert pull.counts == Counts(records_in=3, rows=1, duplicates=2)


class TestReplacing:
    """A batch that replaces rows."""

    def refresh(self, bank: Bank, number: int | None, *records: tuple[object, ...]) -> RowBatch:
        return bank.pull(*records, batch=bank.batch(number, (number or 0) + 1, replaces="TRUE"))

    def test_a_full_refresh_leaves_the_last_one_only(self, bank: Bank) -> None:
        self.refresh(bank, None, row(1), row(2), row(3, amount="x"))
        self.refresh(bank, 1, row(2), row(4, amount="y"))
        assert [found[0] for found in bank.rows()] == [2]
        assert [line for line, *_ in bank.dead()] == [2]
        findings = bank.audit()
        assert (findings.total.records_in, findings.mismatches) == (2, [])

    def test_an_empty_source_empties_the_table(self, bank: Bank) -> None:
        self.refresh(bank, None, row(1))
        assert self.refresh(bank, 1).counts == Counts()
        assert bank.rows() == []

    def test_a_window_replaces_its_day(self, bank: Bank) -> None:
        for start, day, records in ((None, 4, [row(1), row(2)]), (None, 5, [row(3)]), (1, 4, [row(2)])):
            when = date(2026, 1, day)
            position = f"window:{when}"
            batch = RowPlan(
                name=position, start=str(start or 0), end="", partition_date=when, extracted_at=at("2026-01-06 01:00"),
                expect={position: start}, positions={position: (start or 0) + 1},
                replaces=f"_partition_date = DATE '{when}'",
            )  # fmt: skip
            bank.pull(*records, batch=batch)
        assert bank.rows("payment_id, _partition_date") == [(2, date(2026, 1, 4)), (3, date(2026, 1, 5))]
        assert not bank.audit().mismatches


class TestKills:
    """A pull that ends between two of its steps, and the next one."""

    @pytest.mark.parametrize("step", ["write", "letters", "rows", "done"])
    @pytest.mark.parametrize("replaces", [None, "TRUE"])
    def test_the_tables_end_as_if_nothing_had_happened(
        self, bank: Bank, monkeypatch: pytest.MonkeyPatch, step: str, replaces: str | None
    ) -> None:
        records = [row(1), row(2, amount="x"), row(3)]
        with monkeypatch.context() as patch:
            interrupt(patch, step)
            with pytest.raises(KeyboardInterrupt):
                bank.pull(*records, batch=bank.batch(replaces=replaces))
        if bank.bronze.position("watermark") is None:
            bank.pull(*records, row(4, amount="y"), batch=bank.batch(None, 2, replaces=replaces))
        else:
            bank.pull(row(4, amount="y"), *(records if replaces else []), batch=bank.batch(1, 2, replaces=replaces))
        assert [found[0] for found in bank.rows()] == [1, 3]
        assert [raw for (raw,) in bank.dead("raw::JSON->>'payment_id'")] == ["2", "4"]
        assert not bank.audit().mismatches


def interrupt(patch: pytest.MonkeyPatch, step: str) -> None:
    """Raises what no handler catches: just before or after one of a pull's steps."""
    from pipeline_assets.ingest.batch import batch as pull

    def raising(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def then_raising(real: object) -> object:
        def run(*arguments: object, **options: object) -> None:
            real(*arguments, **options)  # type: ignore[operator]
            raise KeyboardInterrupt

        return run

    if step == "write":
        patch.setattr(RowBatch, "commit", raising)
    elif step == "letters":
        patch.setattr(pull, "record", then_raising(pull.record))
    elif step == "rows":
        patch.setattr(RowBatch, "finish", then_raising(RowBatch.finish))
    else:
        patch.setattr(Table, "commit", _after_rows(Table.commit))


def _after_rows(real: object) -> object:
    def commit(self: Table, *arguments: object, **options: object) -> int:
        version: int = real(self, *arguments, **options)  # type: ignore[operator]
        if self.name.startswith("bronze."):
            raise KeyboardInterrupt
        return version

    return commit


def test_the_lake_is_read_in_utc(bank: Bank) -> None:
    assert isinstance(bank.con, duckdb.DuckDBPyConnection)
    bank.pull(row(1, updated="2026-01-05 03:00:00+02"))
    assert bank.rows("updated_at::VARCHAR") == [("2026-01-05 01:00:00+00",)]
