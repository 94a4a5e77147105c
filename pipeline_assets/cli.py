"""The command line: `pipeline demo | dev | tables | dead-letters | query`.

It only talks to people and programs; other modules do the work.

Commands import Dagster only if they need it: `pipeline query` answers before Dagster would be loaded.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import duckdb
import typer
from rich.console import Console

from pipeline_assets import cli_dead_letters, console, serving
from pipeline_assets.console import ROWS_SHOWN, Json
from pipeline_assets.demo import Way
from pipeline_assets.lake import LakeError, Table
from pipeline_assets.settings import SettingsError, ensure_home, load_settings, project_root

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The medallion lakehouse on the command line.")
tables_app = typer.Typer(invoke_without_command=True, help="List the lake's tables, or give one other types.")
app.add_typer(tables_app, name="tables")
app.add_typer(cli_dead_letters.app, name="dead-letters")

_SHOP_DB_URL, _CRM_URL = "SHOP_DB_URL", "CRM_URL"  # variables in which defs/ looks for the shop's database and its CRM


@app.callback()
def main() -> None:
    """The medallion lakehouse on the command line."""
    try:
        ensure_home()
        os.environ.setdefault("DAGSTER_HOME", str(project_root()))
        load_settings()
    except SettingsError as error:
        console.fail(str(error))


@app.command()
def demo(
    all_days: Annotated[
        Path | None,
        typer.Option(
            "--all", exists=True, dir_okay=False, help="The full data set as Parquet, instead of the 30 days shipped."
        ),
    ] = None,
    source: Annotated[Way | None, typer.Option(help="Show one way in alone, instead of all.")] = None,
) -> None:
    """Replay real days of a shop through the whole pipeline, with broken and corrected files among them."""
    from pipeline_assets.demo.postgres_server import PostgresServerError
    from pipeline_assets.demo.run import run_demo
    from pipeline_assets.demo.shop import ShopError

    try:
        # Exactly this stream: the demo redirects what dbt prints meanwhile.
        done = run_demo(Console(file=sys.stdout, width=console.out.width), all_days, source)
    except (PostgresServerError, ShopError) as error:
        console.fail(str(error))
    if not done:
        raise typer.Exit(1)


@app.command()
def dev(
    with_shop: Annotated[
        bool, typer.Option("--shop/--no-shop", help="A shop whose database trades slowly meanwhile, to have changes.")
    ] = True,
) -> None:
    """Run Dagster's web server and daemon on http://127.0.0.1:3000 until Ctrl-C, with the demo's shop beside them."""
    from dotenv import dotenv_values

    known = {**dotenv_values(project_root() / ".env"), **os.environ}
    if with_shop and _SHOP_DB_URL not in known:
        from pipeline_assets.demo.shop import ShopError
        from pipeline_assets.demo.shopkeeper import OpenShop

        try:
            shop = OpenShop(load_settings().state_dir / "shop_db")
            shop.stay_open_over_exec()
            os.environ[_SHOP_DB_URL] = shop.url
            if _CRM_URL not in known:
                os.environ.update(shop.crm.environment)
        except ShopError as error:
            console.tell(f"{error}. Dagster starts without it.")
    os.chdir(project_root())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without a terminal starts background jobs with SIGINT ignored, and `dagster dev` would then ignore
        # SIGTERM too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # This process becomes Dagster's: one process fewer, and signals reach the right one.
    os.execv(sys.executable, [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"])  # noqa: S606


@tables_app.callback()
def tables(context: typer.Context, as_json: Json = False) -> None:
    """List the lake's tables: rows, files, bytes, version, time of the last commit."""
    if context.invoked_subcommand is not None:
        return
    try:
        found = serving.describe(console.lake())
    except LakeError as error:
        console.fail(str(error))
    if as_json:
        console.print_json([table.as_dict() for table in found])
    elif not found:
        console.tell(f"no tables in {console.lake().uri} yet: try make demo")
    else:
        rows = [
            (
                t.name,
                f"{t.rows:,}",
                f"{t.files:,}",
                f"{t.size_bytes / 1e6:,.1f}",
                str(t.version),
                f"{t.committed_at:%F %T}",
            )
            for t in found
        ]
        console.print_table(["table", "rows", "files", "MB", "version", "last commit (UTC)"], rows, right={1, 2, 3, 4})


@tables_app.command()
def retype(
    table: Annotated[str, typer.Argument(help="e.g. bronze.shop__orders")],
    columns: Annotated[list[str], typer.Argument(help='COLUMN=TYPE, e.g. quantity=BIGINT "price=DECIMAL(18,2)"')],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would be done.")] = False,
) -> None:
    """Give columns of a table other types. First show how many values fit, and which do not."""
    from pipeline_assets.ingest.conform import retype as retyping

    wanted = dict(column.rpartition("=")[::2] for column in columns)
    if not all(name and kind for name, kind in wanted.items()):
        console.fail("give each column as COLUMN=TYPE, e.g. quantity=BIGINT")
    settings, lake = load_settings(), console.lake()
    try:
        with lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con:
            found = retyping.plan(con, Table(lake, table), wanted)
            rows = [
                (c.name, c.stored, c.wanted, f"{c.fits:,}", f"{c.misfits:,}", ", ".join(map(repr, c.samples)))
                for c in found
            ]
            console.print_table(
                ["column", "is", "becomes", "values that fit", "that do not", "e.g."], rows, right={3, 4}
            )
            if not yes:
                console.tell(
                    "nothing was done: --yes rewrites the table in one commit. Values that do not fit are kept as text "
                    "in _rescued; former versions stay as they are; the next run rebuilds the tables downstream"
                )
                return
            version = retyping.carry_out(con, Table(lake, table), found)
    except (duckdb.Error, LakeError) as error:
        console.fail(str(error))
    console.tell(f"{table} has these types since version {version}")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='e.g. "select * from gold.daily_sales limit 5"')], as_json: Json = False
) -> None:
    """Run SQL (DuckDB) over the lake; every table is a view `<layer>.<table>`."""
    settings = load_settings()
    try:
        with serving.connect(console.lake(), settings.duckdb_memory_limit, settings.duckdb_threads) as con:
            result = con.execute(sql)
            if result is None or not result.description:
                console.fail("the text holds no query: give SQL such as 'select * from gold.daily_sales limit 5'")
            names = [column[0] for column in result.description]
            rows = result.fetchall() if as_json else result.fetchmany(ROWS_SHOWN + 1)
    except (duckdb.Error, LakeError) as error:
        console.fail(str(error))
    if as_json:
        console.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    console.print_table(names, [["" if value is None else str(value) for value in row] for row in rows[:ROWS_SHOWN]])
    if len(rows) > ROWS_SHOWN:
        console.tell(f"only the first {ROWS_SHOWN} rows are shown; --json gives all")
