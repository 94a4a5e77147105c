"""What `pipeline demo` prints: tables, files that did not fit, what came out of the database and the CRM, what is next.

Reads the lake and, to hold it against, the shop's database; writes nothing but the chart.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
from rich.console import Console
from rich.table import Table as RichTable

from pipeline_assets import serving
from pipeline_assets.demo import chart, shop
from pipeline_assets.demo.shop_db import TABLES
from pipeline_assets.lake import Lake, Table, held_days
from pipeline_assets.settings import project_root

if TYPE_CHECKING:
    import dagster as dg

_BRONZE = "bronze.shop__invoice_lines"
_MONTHS = """
    SELECT strftime(sale_date, '%Y-%m'), sum(total_revenue), sum(total_orders)
    FROM gold.daily_sales GROUP BY 1 ORDER BY 1
"""
_DAYS = "SELECT sale_date, sum(total_revenue)::DOUBLE FROM gold.daily_sales GROUP BY 1 ORDER BY 1"
_REVENUE = "SELECT coalesce(sum(total_revenue), 0) FROM gold.daily_sales"
_REASONS = "SELECT reason, count(*) FROM dead_letters.shop__invoice_lines GROUP BY 1 ORDER BY 2 DESC, 1"
_EVENTS = """
    SELECT
        count(*) FILTER (WHERE op = 'r'), count(*) FILTER (WHERE op = 'c'), count(*) FILTER (WHERE op = 'u'),
        count(*) FILTER (WHERE op = 'd'), count(*) FILTER (WHERE len(unavailable) > 0)
    FROM bronze.shop_db__{table} WHERE commit_lsn > {after}
"""
_LAST_COMMIT = "SELECT coalesce(max(commit_lsn), 0) FROM bronze.shop_db__{table}"
_LIVE = "SELECT count(*) FILTER (WHERE NOT _deleted) FROM silver.{table}"
_PULLED = """
    SELECT count(*), count(*) FILTER (WHERE _batch_id = (SELECT arg_max(_batch_id, _extracted_at) FROM bronze.{bronze}))
    FROM bronze.{bronze}
"""
_PULLS = {"payments": "shop_db__payments", "accounts": "crm__accounts"}
# The CRM makes its accounts of the shop's customers.
_AT_THE_SOURCE = "SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM customers)"
# The last versions of the customer about whom there is most to tell.
_HISTORY = """
    SELECT name, email, phone, country, valid_from, valid_to, is_deleted
    FROM silver.customers_history WHERE customer_id = (
        SELECT customer_id FROM silver.customers_history GROUP BY 1 ORDER BY count(*) DESC, customer_id LIMIT 1)
    QUALIFY row_number() OVER (ORDER BY valid_from DESC) <= 6
    ORDER BY valid_from
"""
# What to type next, and the table that must be there for it: with one way in alone some are not.
_NEXT = (
    ("make dev", "the same in Dagster's UI, http://127.0.0.1:3000: sensors on, the shop goes on trading", None),
    (".venv/bin/pipeline tables", "all tables", None),
    (
        '.venv/bin/pipeline query "select * from gold.customer_metrics limit 5"',
        "SQL over the lake",
        "silver.invoice_lines",
    ),
    (
        '.venv/bin/pipeline query "from dead_letters.shop__invoice_lines"',
        "what did not fit, and why",
        "dead_letters.shop__invoice_lines",
    ),
    (
        '.venv/bin/pipeline query "from silver.products_history limit 20"',
        "each price that a product ever had",
        "silver.products_history",
    ),
)


def tables(console: Console, lake: Lake, results: "list[dg.ExecuteInProcessResult]") -> None:
    """Print each table with its rows, dead letters and checks."""
    checks: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        for check in result.get_asset_check_evaluations():
            checks[".".join(check.asset_key.path)].append(check.passed)
    facts = {found.name: found for found in serving.describe(lake)}
    table = _table("table", "rows", "dead letters", "checks passed", "checks failed")
    for name, found in facts.items():
        if name.startswith("dead_letters."):
            continue
        dead_letters = facts.get(name.replace("bronze.", "dead_letters.")) if name.startswith("bronze.") else None
        passed, failed = checks[name].count(True), checks[name].count(False)
        shown = f"[red]{failed}[/red]" if failed else "0"
        table.add_row(name, f"{found.rows:,}", f"{dead_letters.rows:,}" if dead_letters else "", str(passed), shown)
    console.print(table, "")


def files(console: Console, lake: Lake, page: Path) -> None:
    """Print revenue by month and what of the landed files did not fit; write the chart."""
    months = _table("month", "revenue GBP", "orders")
    with serving.connect(lake, "1GB", None) as con:
        for month, revenue, orders in con.execute(_MONTHS).fetchall():
            months.add_row(month, f"{revenue:,.2f}", f"{orders:,}")
        chart.write(page, con.execute(_DAYS).fetchall())
        reasons = con.execute(_REASONS).fetchall()
    console.print(months, "")
    for day in sorted(held_days(Table(lake, _BRONZE))):
        console.print(
            f"[red]{day} is withheld[/red]: more of its records are dead letters than the failure budget allows. "
            "Silver and gold go on without that day until it is delivered again; under `make dev`, people are alerted. "
            "The dead letters:"
        )
    for reason, count in reasons:
        console.print(f"  {count:>3}  {reason}", markup=False, highlight=False)


def revenue(console: Console, lake: Lake, source: Path, corrected_day: date) -> bool:
    """Print gold's revenue beside that of the data, and what the demo's correction makes of it; return if they agree.

    Args:
        console: Where.
        lake: The lake.
        source: The data that was landed.
        corrected_day: The day that was delivered again.
    """
    with serving.connect(lake, "1GB", None) as con:
        (gold,) = _row(con, _REVENUE)
    delivered, corrected = shop.revenue(source), shop.revenue(source, corrected_day)
    published = " (the published figure)" if delivered == shop.PUBLISHED_REVENUE else ""
    console.print(
        f"Revenue of the data: {delivered:,.3f} GBP{published}. The demo's corrected delivery of {corrected_day} "
        f"changes it by {corrected - delivered:+,.3f}. "
        f"In gold: {'' if gold == corrected else '[red]'}{gold:,.3f}{'' if gold == corrected else '[/red]'}, "
        f"{'exactly that' if gold == corrected else f'not {corrected:,.3f}'}.\n",
        highlight=False,
        soft_wrap=True,
    )
    return bool(gold == corrected)


@dataclass(frozen=True)
class Changes:
    """What the change tables hold, and the shop's own tables to compare with.

    Attributes:
        events: By table: reads, inserts, updates, deletes, updates without a TOASTed value.
        rows: By table: rows of the source, live rows of silver, versions in history (None without a history).
    """

    events: dict[str, tuple[int, ...]]
    rows: dict[str, tuple[int, int, int | None]]

    @property
    def agree(self) -> bool:
        """Whether silver holds as many rows as the source."""
        return all(source == silver for source, silver, _ in self.rows.values())


def last_commits(lake: Lake) -> dict[str, int]:
    """Give the last commit in each change table, 0 in a table that is not there yet."""
    known = set(lake.table_names())
    with serving.connect(lake, "1GB", None) as con:
        return {
            table: _row(con, _LAST_COMMIT.format(table=table))[0] if f"bronze.shop_db__{table}" in known else 0
            for table in TABLES
        }


def changes_since(lake: Lake, shop_url: str, commits: dict[str, int]) -> Changes:
    """Compare the lake with the shop's database.

    Args:
        lake: The lake.
        shop_url: The shop's database.
        commits: Count the events after these, by table.
    """
    known = set(lake.table_names())
    events, rows = {}, {}
    with serving.connect(lake, "1GB", None) as con, psycopg.connect(shop_url) as source:
        for table in TABLES:
            events[table] = _row(con, _EVENTS.format(table=table, after=commits[table]))
            history = f"silver.{table}_history"
            rows[table] = (
                (source.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,))[0],
                _row(con, _LIVE.format(table=table))[0] if f"silver.{table}" in known else 0,
                _row(con, f"SELECT count(*) FROM {history}")[0] if history in known else None,
            )
    return Changes(events, rows)


def changes(console: Console, lake: Lake, whole: Changes, last: Changes) -> None:
    """Print what came out of the database: all of it, what the last run brought, and one customer's history."""
    table = _table(
        "table", "snapshot", "inserts", "updates", "deletes", "rows in the shop", "rows in silver", "versions"
    )
    for name, (reads, inserts, updates, deletes, _) in whole.events.items():
        source, silver, versions = whole.rows[name]
        shown = f"{silver:,}" if silver == source else f"[red]{silver:,}[/red]"
        counts = [f"{count:,}" for count in (reads, inserts, updates, deletes, source)]
        table.add_row(name, *counts, shown, f"{versions:,}" if versions is not None else "")
    console.print("[bold]Out of the database[/bold], by its replication slot", table, "", sep="\n")
    console.print("The last run alone:" if any(map(any, last.events.values())) else "The last demo had seen them all.")
    for name, (_, inserts, updates, deletes, toasted) in last.events.items():
        without = f" ({toasted} without the order's lines, which silver keeps)" if toasted else ""
        if inserts or updates or deletes:
            console.print(
                f"  {name}: {inserts} inserts, {updates} updates{without}, {deletes} deletes", highlight=False
            )
    console.print("")
    if "silver.customers_history" not in lake.table_names():
        return
    with serving.connect(lake, "1GB", None) as con:
        history = _table("name", "e-mail", "phone", "country", "from", "until", "deleted")
        for *person, start, end, gone in con.execute(_HISTORY).fetchall():
            texts = ["" if value is None else repr(value)[1:-1] for value in person]
            history.add_row(*texts, f"{start:%F}", f"{end:%F}" if end else "now", "yes" if gone else "")
    console.print("[bold]One customer through time[/bold], silver.customers_history", history, "", sep="\n")


def pulls(console: Console, lake: Lake, shop_url: str) -> bool:
    """Print what was pulled and polled, beside what the sources have; return whether the payments agree."""
    with psycopg.connect(shop_url) as source:
        here = dict(zip(_PULLS, source.execute(_AT_THE_SOURCE).fetchone() or (0, 0), strict=True))
    if missing := {f"silver.{name}" for name in _PULLS} - set(lake.table_names()):
        console.print(f"[red]{', '.join(sorted(missing))} never came about[/red]")
        return False
    table = _table("table", "rows read", "last batch", "rows at the source", "rows in silver")
    with serving.connect(lake, "1GB", None) as con:
        live = {name: _row(con, _LIVE.format(table=name))[0] for name in _PULLS}
        for name, bronze in _PULLS.items():
            rows, last = _row(con, _PULLED.format(bronze=bronze))
            table.add_row(name, *(f"{count:,}" for count in (rows, last, here[name], live[name])))
    console.print("[bold]Pulled from the database, polled from the CRM[/bold]", table, sep="\n")
    if gone := live["accounts"] - here["accounts"]:
        console.print(f"[dim]{gone} accounts are gone from the CRM; a poll for what is new does not see that.[/dim]")
    console.print("")
    return bool(live["payments"] == here["payments"])


def what_next(console: Console, lake: Lake, page: Path | None) -> None:
    """Print what to type next, and where the chart is, if there is one."""
    known = set(lake.table_names())
    typed = [(command, why) for command, why, table in _NEXT if table is None or table in known]
    console.print("[bold]What to type next[/bold]")
    for command, why in (*typed, *([(f"open {shown_path(page)}", "revenue by day")] if page else [])):
        console.print(f"  {command:<70} [dim]{why}[/dim]", soft_wrap=True)


def shown_path(path: Path) -> str:
    """Write the path as a person in the checkout would type it."""
    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return con.execute(query).fetchone() or ()


def _table(*names: str) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(names):
        table.add_column(name, justify="right" if at else "left")
    return table
