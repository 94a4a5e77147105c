"""A shop whose bronze lines are written by hand, and dbt run in this process on the lake that holds them.

The manifest is parsed once for the session (4 s). A run then takes 0.1 CPU seconds per model, so each test runs the
models that it is about.
"""

import datetime
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunnerResult
from warm_dbt import warm_dbt

from pipeline_assets.lake import Lake, Table, query_schema
from pipeline_assets.settings import load_settings

BRONZE = "bronze.shop__invoice_lines"
MODELS = ("silver.invoice_lines", "gold.product_sales", "gold.customer_metrics", "gold.daily_sales")
RUN = ("run", "--select", *(name.split(".")[1] for name in MODELS))
_NO_ROWS = """
    select '' as invoice_no, '' as stock_code, '' as description, 0::bigint as quantity,
        timestamp '2011-01-01' as invoice_date, 0::decimal(12, 3) as unit_price, 0::bigint as customer_id,
        '' as country, date '2011-01-01' as _partition_date, '' as _batch_id,
        timestamptz '2011-01-01' as _extracted_at, {'file': '', 'line': 0::bigint} as _source, '' as _rescued
    where false
"""


def _line(
    invoice: str,
    when: str,
    customer: int | None = 1,
    *,
    price: float = 10,
    quantity: int = 1,
    stock: str = "10001",
    text: str | None = "MUG",
    country: str = "EIRE",
) -> tuple[Any, ...]:
    """A source line; `when` is a day of January 2011 and a time, e.g. `03 10:00`."""
    moment = datetime.datetime.fromisoformat(f"2011-01-{when}" if " " in when else f"2011-01-{when} 12:00")
    return (invoice, stock, text, quantity, moment, price, customer, country)


class Shop:
    """The lake, its bronze table, and dbt."""

    def __init__(self, lake: Lake, run: Callable[..., dbtRunnerResult]) -> None:
        self.lake, self._run = lake, run
        self.con = lake.connect()
        self.bronze = Table(lake, BRONZE)
        self._batches = 0

    def create(self) -> "Shop":
        self.bronze.create(
            query_schema(self.con, _NO_ROWS), partition_by=["_partition_date"], date_column="invoice_date"
        )
        return self

    def land(self, day: int, *lines: tuple[Any, ...]) -> None:
        """Appends a landing file of a day of January 2011."""
        self._batches += 1
        self.bronze.append(self.con, self._rows(day, lines), batch_id=f"batch-{self._batches}")

    def correct(self, day: int, *lines: tuple[Any, ...]) -> None:
        """Replaces all that landed on a day."""
        self.bronze.replace(self.con, self._rows(day, lines), where=f"_partition_date = date '2011-01-{day:02}'")

    def _rows(self, day: int, lines: Sequence[tuple[Any, ...]]) -> str:
        self.con.execute(f"create or replace temp table landed as {_NO_ROWS}")
        for number, values in enumerate(lines, 1):
            self.con.execute(
                "insert into landed values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {'file': ?, 'line': ?}, null)",
                [
                    *values,
                    datetime.date(2011, 1, day),
                    f"batch-{self._batches}",
                    datetime.datetime(2011, 1, day, tzinfo=datetime.UTC),
                    f"{day}.csv",
                    number,
                ],
            )
        return "select * from landed"

    def dbt(self, *args: str) -> None:
        result = self._run(*args)
        assert result.success, _failures(result)

    def run(self, *args: str) -> None:
        """Runs the models of landed lines."""
        self.dbt(*RUN, *args)

    def dbt_fails(self, *args: str) -> str:
        result = self._run(*args)
        assert not result.success
        return _failures(result)

    def rows(self, name: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.query(f"select {columns} from {name} order by all")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        for name in (BRONZE, *MODELS):
            if name in sql:
                sql = sql.replace(name, Table(self.lake, name).scan())
        return self.con.execute(sql).fetchall()

    def version(self, name: str) -> int:
        return Table(self.lake, name).open().version()

    def commit(self, name: str) -> dict[str, Any]:
        """The newest commit's facts."""
        return Table(self.lake, name).open().history(1)[0]

    def is_built(self) -> bool:
        return all(Table(self.lake, name).exists() for name in MODELS)

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        return {name: self.rows(name) for name in MODELS}


def _failures(result: dbtRunnerResult) -> str:
    """All that went wrong, as one text."""
    nodes = [str(node.message) for node in getattr(result.result, "results", None) or [] if node.status != "success"]
    return "\n".join([*nodes, str(result.exception or "")])


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dbtRunnerResult]:
    """Runs dbt commands on the real project with one parsed manifest; artefacts go to a temporary folder."""
    return warm_dbt(tmp_path_factory.mktemp("dbt"))


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setenv("PIPELINE_LAKE_URI", str(tmp_path / "lake"))
    for name in ("PIPELINE_MIN_DATE", "PIPELINE_MAX_DATE"):
        monkeypatch.delenv(name, raising=False)
    load_settings.cache_clear()
    yield Lake(str(tmp_path / "lake"), {"provider": "local"})
    load_settings.cache_clear()


@pytest.fixture
def shop(lake: Lake, runner: Callable[..., dbtRunnerResult]) -> Iterator[Shop]:
    opened = Shop(lake, runner).create()
    yield opened
    opened.con.close()


@pytest.fixture
def fresh_shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lake: Lake, runner: Callable[..., dbtRunnerResult]
) -> Callable[[], Shop]:
    """Makes shops with lakes of their own, for tests with several examples."""

    def make() -> Shop:
        folder = tempfile.mkdtemp(dir=tmp_path)
        monkeypatch.setenv("PIPELINE_LAKE_URI", folder)
        load_settings.cache_clear()
        return Shop(Lake(folder, lake.storage_options), runner).create()

    return make


@pytest.fixture
def failures() -> Callable[[dbtRunnerResult], str]:
    return _failures


@pytest.fixture
def line() -> Callable[..., tuple[Any, ...]]:
    return _line


@pytest.fixture
def expected() -> Callable[[Shop], dict[str, list[tuple[Any, ...]]]]:
    """The tables as plain SQL over all of bronze: what any history of runs must come to."""
    return lambda shop: _expected(shop.con, shop.bronze.scan())


def _expected(con: duckdb.DuckDBPyConnection, bronze: str) -> dict[str, list[tuple[Any, ...]]]:
    con.execute(f"""
        create or replace temp table lines as
        select invoice_no, stock_code, nullif(trim(description), '') as description, quantity,
            invoice_date as invoiced_at, invoice_date::date as invoice_date, unit_price as unit_price_gbp, customer_id,
            country, invoice_no like 'C%' as is_cancelled,
            customer_id is not null and invoice_no not like 'C%' and unit_price > 0 as is_sale,
            (quantity * unit_price)::decimal(18, 3) as line_amount_gbp, _partition_date
        from (
            select * exclude (_partition_date, _batch_id, _extracted_at, _source, _rescued),
                min(_partition_date) as _partition_date
            from {bronze} group by all
        )
    """)
    con.execute("""
        create or replace temp table customers as
        select customer_id, count(distinct invoice_no) as total_orders, sum(line_amount_gbp)::decimal(18, 3) as value,
            (sum(line_amount_gbp) / count(distinct invoice_no))::decimal(18, 3), min(invoice_date), max(invoice_date),
            (select max(invoice_date) from lines where is_sale) - max(invoice_date),
            (select max(invoice_date) from lines where is_sale),
            case when value > 10000 then 'VIP' when value > 1000 then 'Gold' when value > 100 then 'Silver'
                else 'Bronze' end as customer_segment
        from lines where is_sale group by customer_id
    """)
    queries = {
        "silver.invoice_lines": "from lines",
        "gold.product_sales": """
            select stock_code, stock_code similar to '[0-9]{5}[A-Za-z]?',
                min(invoice_date) filter (is_sale), max(invoice_date) filter (is_sale),
                coalesce(sum(quantity) filter (is_sale), 0)::bigint
            from lines group by stock_code
        """,
        "gold.customer_metrics": "select *, null, null, null, null, null, null, null from customers",
        "gold.daily_sales": """
            select invoice_date, country, customer_segment, count(distinct invoice_no),
                sum(line_amount_gbp)::decimal(18, 3),
                (sum(line_amount_gbp) / count(distinct invoice_no))::decimal(18, 3), count(distinct customer_id)
            from lines join customers using (customer_id) where is_sale group by all
        """,
    }
    return {name: con.execute(f"select * from ({query}) order by all").fetchall() for name, query in queries.items()}
