"""What follows from pulls: which windows are due, that a range of them adds up, which days are withheld."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import pandera.polars as pa
import polars as pl
from bank import Bank, paid
from pulled import Payments, Strict

from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.database.pulls import days_due

JANUARY = [f"2026-01-0{day}" for day in range(1, 7)]


def test_days_that_were_left_out_are_due_from_the_first_one_on(postgres_bank: Bank) -> None:
    source = postgres_bank.source(Strict, table="payments", mode="window")
    today = date.fromisoformat(JANUARY[5])
    assert days_due(postgres_bank.lake, source, today) == (date(2026, 1, 5), date(2026, 1, 5))
    postgres_bank.pull(source, JANUARY[0])
    postgres_bank.pull(source, JANUARY[4])
    assert days_due(postgres_bank.lake, source, today) == (date(2026, 1, 2), date(2026, 1, 5))
    postgres_bank.pull(source, JANUARY[1], JANUARY[3])
    assert days_due(postgres_bank.lake, source, today) == (date(2026, 1, 5), date(2026, 1, 5))


def test_a_day_that_was_pulled_before_it_was_over_is_due_again(postgres_bank: Bank) -> None:
    source = postgres_bank.source(Strict, table="payments", mode="window")
    today = datetime.now(UTC).date()
    postgres_bank.pull(source, str(today - timedelta(days=1)), str(today))
    due = days_due(postgres_bank.lake, source, today + timedelta(days=3))
    assert due == (today, today + timedelta(days=2))


def test_a_row_that_was_mended_at_the_source_withholds_no_day(postgres_bank: Bank) -> None:
    class Positive(Payments):
        amount: Annotated[pl.Decimal, 12, 2] = pa.Field(gt=0)

    def held() -> frozenset[date]:
        bank, keys = postgres_bank, ["payment_id"]
        return audit(bank.con, bank.bronze, Positive, failure_budget=0, days=None, keys=keys).held

    postgres_bank.execute(paid(1), paid(2, amount="-1"))
    postgres_bank.pull(mode="incremental")
    assert len(held()) == 1
    postgres_bank.execute("UPDATE payments SET amount = '1' WHERE payment_id = 2")
    postgres_bank.pull(mode="incremental")
    assert held() == frozenset()
    postgres_bank.execute("UPDATE payments SET amount = '-2' WHERE payment_id = 1")
    postgres_bank.pull(mode="incremental")
    assert len(held()) == 1


def test_a_full_pull_stands_while_increments_follow(postgres_bank: Bank) -> None:
    postgres_bank.execute(paid(1), paid(2))
    postgres_bank.pull(mode="full")
    postgres_bank.pull(mode="incremental")
    postgres_bank.execute(paid(3))
    postgres_bank.pull(mode="incremental")
    found = postgres_bank.audit()
    assert (found.total.rows, found.mismatches) == (3, [])


def test_the_windows_of_a_range_are_all_reconciled(postgres_bank: Bank) -> None:
    postgres_bank.execute(*[paid(n, f"{day} 10:00:00+00") for n, day in enumerate(JANUARY, 1)])
    postgres_bank.pull(postgres_bank.source(Strict, table="payments", mode="window"), JANUARY[0], JANUARY[5])
    postgres_bank.bronze.commit(postgres_bank.con, [], where="payment_id = 2")
    found = postgres_bank.audit(Strict)
    assert (found.readings, found.total.records_in, found.total.rows) == (6, 6, 5)
    assert [str(day) for wrong in found.mismatches for day in wrong.reading.days] == [JANUARY[1]]
