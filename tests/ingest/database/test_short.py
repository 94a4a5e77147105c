"""A source that stops half-way, or that is asked for a part, is never taken for the whole."""

from pathlib import Path

import pytest
from bank import Bank

from pipeline_assets.ingest.database.errors import DatabaseError

# An error in the row 9,000, which the driver meets while it streams.
FAILS = {
    "postgres": "1 / (payment_id - 9000)",
    "sqlite": "CASE payment_id WHEN 9000 THEN abs(-9223372036854775807 - 1) END",
    "duckdb": "CASE payment_id WHEN 9000 THEN error('broken page') END",
}
MANY = {
    "postgres": "SELECT n, '1.5', 'a', now() FROM generate_series(1, 12000) n",
    "sqlite": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 12000) "
    "SELECT n, '1.5', 'a', '2026-01-01' FROM r",
    "duckdb": "SELECT n, '1.5', 'a', now() FROM range(1, 12001) t(n)",
}


@pytest.mark.parametrize("mode", ["full", "incremental"])
def test_an_error_in_the_middle_of_the_rows_commits_none_and_the_next_pull_has_all(bank: Bank, mode: str) -> None:
    kind = bank.url.partition(":")[0].removesuffix("ql")
    bank.execute(f"INSERT INTO payments {MANY[kind]}")
    where = " WHERE updated_at >= :lower" if mode == "incremental" else ""
    rows = "SELECT payment_id, amount, note, updated_at{} FROM payments" + where
    with pytest.raises(DatabaseError):
        bank.pull(bank.source(query=rows.format(f", {FAILS[kind]} AS extra"), mode=mode))
    assert not bank.bronze.exists() or bank.rows() == []
    bank.pull(bank.source(query=rows.format(""), mode=mode))
    assert len(bank.ids()) == 12_000


def test_a_query_that_cuts_what_is_new_is_refused(tmp_path: Path) -> None:
    bank = Bank(tmp_path, f"sqlite:///{tmp_path}/bank.db")
    with pytest.raises(ValueError, match="mode incremental gives only so many rows"):
        bank.source(query="SELECT * FROM payments WHERE a >= :lower ORDER BY a LIMIT 1000", mode="incremental")
    assert bank.source(query="SELECT * FROM payments LIMIT 1000", mode="full").mode == "full"
