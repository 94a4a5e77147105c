"""Deleted rows: the source's keys compared with those of bronze."""

import pytest
from bank import Bank, paid

from pipeline_assets.ingest.batch.errors import BatchError
from pipeline_assets.ingest.database import compare_keys as module
from pipeline_assets.ingest.database.compare_keys import KeyComparison, compare_keys
from pipeline_assets.ingest.database.pulls import DatabaseSource, connect
from pipeline_assets.lake import Table


def compare(bank: Bank, source: DatabaseSource | None = None) -> KeyComparison:
    source = source or bank.source(table="payments", mode="incremental")
    return compare_keys(bank.lake, bank.con, source, connect(bank.url))


def state(bank: Bank) -> list[tuple[object, ...]]:
    """The newest row of each key."""
    newest = f"SELECT * FROM {bank.bronze.scan()} QUALIFY row_number() OVER (PARTITION BY payment_id " \
             "ORDER BY updated_at DESC, _extracted_at DESC) = 1"  # fmt: skip
    return bank.con.execute(f"SELECT payment_id, note, _deleted FROM ({newest}) ORDER BY ALL").fetchall()


def test_a_key_that_is_gone_gets_its_last_row_as_a_tombstone(bank: Bank) -> None:
    bank.execute(paid(1), paid(2), paid(3))
    bank.pull(mode="incremental")
    bank.execute("UPDATE payments SET note = 'b', updated_at = '2026-01-05 11:00:00+00' WHERE payment_id = 2")
    bank.pull(mode="incremental")
    bank.execute("DELETE FROM payments WHERE payment_id = 2")
    assert compare(bank) == KeyComparison(keys=2, gone=1, missing=0)
    assert state(bank) == [(1, "a", False), (2, "b", True), (3, "a", False)]
    audited = bank.audit()
    assert audited.contract.passed
    assert not audited.mismatches


def test_a_second_comparison_finds_nothing(bank: Bank) -> None:
    bank.execute(paid(1), paid(2))
    bank.pull(mode="incremental")
    bank.execute("DELETE FROM payments")
    assert [compare(bank).gone, compare(bank).gone] == [2, 0]


def test_a_row_that_comes_back_is_there_again(bank: Bank) -> None:
    bank.execute(paid(1))
    bank.pull(mode="incremental")
    bank.execute("DELETE FROM payments")
    compare(bank)
    bank.execute(paid(1))
    bank.pull(mode="incremental")
    assert state(bank) == [(1, "a", False)]
    assert compare(bank) == KeyComparison(keys=1, gone=0, missing=0)


def test_keys_that_bronze_does_not_have_are_counted(bank: Bank) -> None:
    bank.execute(paid(1))
    bank.pull(mode="incremental")
    bank.execute(paid(2), paid(3))
    assert compare(bank) == KeyComparison(keys=3, gone=0, missing=2)


def test_a_query_is_compared_whole(bank: Bank) -> None:
    query = "SELECT * FROM payments WHERE updated_at >= :lower AND payment_id <> 2"
    source = bank.source(query=query, mode="incremental")
    bank.execute(paid(1), paid(2), paid(3))
    bank.pull(source)
    bank.execute("DELETE FROM payments WHERE payment_id = 3")
    assert compare(bank, source) == KeyComparison(keys=1, gone=1, missing=0)


def test_without_rows_there_is_nothing_to_compare(bank: Bank) -> None:
    with pytest.raises(BatchError, match=r"bronze.bank__payments has no rows yet: pull bank__payments first"):
        compare(bank)


def test_a_pull_in_between_leads_to_a_new_comparison(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.execute(paid(1), paid(2))
    bank.pull(mode="incremental")
    bank.execute("DELETE FROM payments WHERE payment_id = 1")
    real, raced = module._find_gone, []

    def find(*arguments: object) -> KeyComparison:
        found = real(*arguments)  # type: ignore[arg-type]
        if not raced:
            raced.append(1)
            bank.execute(paid(1))
            bank.pull(mode="incremental")
        return found

    monkeypatch.setattr(module, "_find_gone", find)
    assert compare(bank).gone == 0
    assert [row[2] for row in state(bank)] == [False, False]


def test_a_kill_leaves_all_tombstones_or_none(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.execute(paid(1), paid(2))
    bank.pull(mode="incremental")
    bank.execute("DELETE FROM payments")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(bank)
    assert [row[2] for row in state(bank)] == [False, False]
    assert compare(bank).gone == 2
