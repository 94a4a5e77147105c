"""Windows: which of them are due, and that a range of them adds up."""

from datetime import UTC, date, datetime, timedelta

from bank import Bank, paid
from pulled import Strict

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
    assert (found.total.files, found.total.records_in, found.total.rows) == (6, 6, 5)
    assert [str(wrong.day) for wrong in found.mismatches] == [JANUARY[1]]
