"""A table of more columns than its contract names is pulled within the memory limit of 1 GB."""

from pathlib import Path

import pandera.polars as pa
import polars as pl
from bank import Bank


class Broad(pa.DataFrameModel):
    """Two columns of many."""

    id: pl.Int64
    extra_7: pl.Int64 = pa.Field(nullable=True)


def test_a_table_of_1598_columns_is_pulled_by_a_contract_of_two(database: str, tmp_path: Path) -> None:
    bank = Bank(tmp_path, database)
    columns = [f"extra_{number}" for number in range(1_597)]
    bank.execute(
        f"CREATE TABLE broad (id int PRIMARY KEY, {', '.join(f'{name} int' for name in columns)})",
        f"INSERT INTO broad SELECT i, {', '.join('i' for _ in columns)} FROM generate_series(1, 500) i",
    )
    bank.pull(bank.source(Broad, table="broad", keys=("id",)))
    assert bank.rows("id, extra_7", where="id = 500") == [(500, 500)]
    assert bank.dead() == []
    bank.con.close()
