"""Days that failed a check are left out of what downstream reads, and come back once they pass."""

from datetime import date

import duckdb
import pytest

from pipeline_assets.lake import (
    CommitConflictError,
    Lake,
    Table,
    audited_in,
    changes_since,
    held_days,
    publish_or_withhold,
    published,
    query_schema,
)

FIRST, SECOND = date(2011, 1, 4), date(2011, 1, 5)
ROWS = """
    SELECT unnest([1, 2, 3]) AS id,
        unnest([DATE '2011-01-04', DATE '2011-01-05', DATE '2011-01-05']) AS _partition_date,
        unnest([TIMESTAMP '2011-01-04', TIMESTAMP '2011-01-05', TIMESTAMP '2011-01-02']) AS invoice_date
"""


@pytest.fixture
def bronze(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    table = Table(lake, "bronze.shop__lines")
    table.create(query_schema(con, ROWS), partition_by=["_partition_date"], date_column="invoice_date")
    table.append(con, ROWS, batch_id="a")
    return table


def verdict(con: duckdb.DuckDBPyConnection, table: Table, *, good: list[date], bad: list[date]) -> None:
    publish_or_withhold(con, table, version=table.open().version(), good=good, bad=bad)


def ids(con: duckdb.DuckDBPyConnection, table: Table) -> list[int]:
    found = con.execute(f"SELECT id FROM {table.scan()} WHERE {published(table.open())} ORDER BY id").fetchall()
    return [row[0] for row in found]


def test_a_bad_day_is_left_out_until_it_is_good(con: duckdb.DuckDBPyConnection, bronze: Table) -> None:
    verdict(con, bronze, good=[FIRST], bad=[SECOND])
    assert (ids(con, bronze), held_days(bronze)) == ([1], {SECOND})
    verdict(con, bronze, good=[FIRST], bad=[])
    assert ids(con, bronze) == [1]  # only its own check releases a day
    verdict(con, bronze, good=[SECOND], bad=[])
    assert (ids(con, bronze), held_days(bronze)) == ([1, 2, 3], frozenset())


def test_downstream_learns_which_event_days_are_concerned(con: duckdb.DuckDBPyConnection, bronze: Table) -> None:
    for good, bad in (([], [SECOND]), ([SECOND], [])):
        before = bronze.open().version()
        verdict(con, bronze, good=good, bad=bad)
        assert changes_since(bronze, before).dates == {date(2011, 1, 2), SECOND}


def test_a_bad_day_with_rows_without_an_event_day_is_withheld_too(
    con: duckdb.DuckDBPyConnection, bronze: Table
) -> None:
    bronze.append(con, f"SELECT * REPLACE (NULL::TIMESTAMP AS invoice_date) FROM ({ROWS}) WHERE id = 3", batch_id="b")
    before = bronze.open().version()
    verdict(con, bronze, good=[], bad=[SECOND])
    assert held_days(bronze) == {SECOND}
    assert changes_since(bronze, before).dates is None


def test_the_same_judgement_is_no_commit(con: duckdb.DuckDBPyConnection, bronze: Table) -> None:
    verdict(con, bronze, good=[], bad=[SECOND])
    version = audited_in(bronze.open())
    assert version is not None
    publish_or_withhold(con, bronze, version=version, good=[FIRST], bad=[SECOND])
    assert audited_in(bronze.open()) == version
    assert bronze.open().version() == version + 1  # the position itself


def test_rows_that_came_after_the_audit_are_not_published_with_it(
    con: duckdb.DuckDBPyConnection, bronze: Table
) -> None:
    version = bronze.open().version()
    bronze.append(con, ROWS, batch_id="later")
    publish_or_withhold(con, bronze, version=version, good=[FIRST, SECOND], bad=[])
    assert audited_in(bronze.open()) == version
    with pytest.raises(CommitConflictError):  # the property would lie behind rows that nobody audited
        publish_or_withhold(con, bronze, version=version, good=[], bad=[SECOND])
    assert audited_in(bronze.open()) == version
    assert held_days(bronze) == {SECOND}


def test_an_older_version_is_read_as_it_was_judged_then(con: duckdb.DuckDBPyConnection, bronze: Table) -> None:
    before = bronze.open().version()
    verdict(con, bronze, good=[], bad=[SECOND])
    assert published(bronze.open(before)) == "TRUE"
    assert "2011-01-05" in published(bronze.open())
