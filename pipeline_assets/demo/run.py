"""`pipeline demo`: lands files, lets the sensor find them, runs Dagster, shows what became of them.

The same sensor and the same jobs as in production; only the daemon is left out, so that it ends.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from pipeline_assets import serving
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.demo import chart, shop
from pipeline_assets.lake import Lake, Table, held_days
from pipeline_assets.settings import load_settings, project_root

SAMPLE = Path(__file__).parent / "data" / "online_retail_30_days.parquet"
_SENSOR = "shop__invoice_lines__landing"
_BRONZE = "bronze.shop__invoice_lines"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # the events are in the UI
_DEMO = {"pipeline_assets/demo": "yes"}
_MONTHS = """
    SELECT strftime(sale_date, '%Y-%m'), sum(total_revenue), sum(total_orders)
    FROM gold.daily_sales GROUP BY 1 ORDER BY 1
"""
_DAYS = "SELECT sale_date, sum(total_revenue)::DOUBLE FROM gold.daily_sales GROUP BY 1 ORDER BY 1"
_REASONS = "SELECT reason, count(*) FROM dead_letters.shop__invoice_lines GROUP BY 1 ORDER BY 2 DESC, 1"
_NEXT = (
    ("make dev", "the same in Dagster's UI, http://127.0.0.1:3000, sensors on"),
    (".venv/bin/pipeline tables", "all tables"),
    ('.venv/bin/pipeline query "select * from gold.customer_metrics limit 5"', "SQL over the lake"),
    ('.venv/bin/pipeline query "from dead_letters.shop__invoice_lines"', "what did not fit, and why"),
)


def run_demo(console: Console, source: Path | None) -> bool:
    """Runs the demo.

    Args:
        console: Where it reports.
        source: The full data set; the days shipped with the package when None.

    Returns:
        Whether every run did what it was to do.
    """
    settings = load_settings()
    landing, source = Path(settings.landing_uri), source or SAMPLE
    days = shop.trading_days(source)
    console.print(
        f"[bold]A shop's {len(days)} trading days[/bold] land as files in {_shown(landing)} and become Delta tables in "
        f"{_shown(Path(settings.lake_uri))}.\n[dim]Data: UCI Online Retail (Chen, 2015), doi 10.24432/C5BW33[/dim]"
    )
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    pipeline = _Pipeline(settings.state_dir / "demo.log")
    with _progress(console) as step:
        with step(f"{len(days)} files land: {', '.join(shop.FORMATS)}"):
            shop.land_days(source, landing)
        with step("the sensor asks for one run: bronze, silver, gold and their checks"):
            first = pipeline.tick()
        # The broken day is one on which the shop was closed, ahead of the corrected one: its run comes first.
        broken_day = next(day + timedelta(days=1) for day in days if day + timedelta(days=1) not in days)
        corrected_day = days[len(days) // 2]
        with step(f"a broken file lands for {broken_day}, a corrected one for {corrected_day}"):
            shop.land_broken_file(source, landing, day=broken_day)
            shop.land_correction(source, landing, day=corrected_day)
        with step("the sensor finds both; the broken day exceeds its failure budget, which is the point"):
            second = pipeline.tick()
    page = settings.state_dir / "demo.html"
    _report(console, Lake(settings.lake_uri, settings.storage_options()), [*first, *second], page)
    with serving.connect(Lake(settings.lake_uri, settings.storage_options()), "1GB", None) as con:
        known = {day for (day,) in con.execute("SELECT DISTINCT sale_date FROM gold.daily_sales").fetchall()}
    return set(days) <= known


class _Pipeline:
    """The code location with its real instance: what a daemon would do, step by step."""

    def __init__(self, log: Path) -> None:
        from pipeline_assets.definitions import defs

        self._repository = defs().get_repository_def()
        self._instance = dg.DagsterInstance.get()
        self._cursor: str | None = None
        self._log = log
        for record in self._instance.get_run_records(dg.RunsFilter(tags=_DEMO)):
            if not record.dagster_run.is_finished:  # of a demo that was killed; with a daemon, monitoring would tell
                self._instance.report_run_failed(record.dagster_run, "the demo was killed")

    def tick(self) -> list[dg.ExecuteInProcessResult]:
        """Evaluates the landing sensor once and executes the runs that it asks for."""
        sensor = self._repository.get_sensor_def(_SENSOR)
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursor,
            repository_def=self._repository,
            sensor_name=_SENSOR,
            resources={"lake": lake_resource()},
        )
        with context:
            ticked = sensor.evaluate_tick(context)
        self._cursor = ticked.cursor
        job = self._repository.get_job(str(sensor.job_name))
        with self._log.open("a") as log, redirect_stdout(log):  # dbt talks
            return [
                job.execute_in_process(
                    instance=self._instance,
                    tags={**request.tags, **_DEMO},
                    run_config=_QUIET,
                    raise_on_error=False,
                )
                for request in ticked.run_requests or []
            ]


@contextmanager
def _progress(console: Console) -> Iterator["_Stepper"]:
    with Progress(
        SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    ) as progress:
        yield _Stepper(progress)


class _Stepper:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        task = self._progress.add_task(text, total=1)
        yield
        self._progress.update(task, completed=1)


def _report(console: Console, lake: Lake, results: list[dg.ExecuteInProcessResult], page: Path) -> None:
    """Prints the tables with their checks, revenue by month, and what to type next."""
    checks: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        for check in result.get_asset_check_evaluations():
            checks[".".join(check.asset_key.path)].append(check.passed)
    facts = {found.name: found for found in serving.describe(lake)}
    table = _table("table", "rows", "dead letters", "checks passed", "checks failed")
    for name, found in facts.items():
        if name.startswith("dead_letters."):
            continue
        letters = facts.get(name.replace("bronze.", "dead_letters.")) if name.startswith("bronze.") else None
        passed, failed = checks[name].count(True), checks[name].count(False)
        shown = f"[red]{failed}[/red]" if failed else "0"
        table.add_row(name, f"{found.rows:,}", f"{letters.rows:,}" if letters else "", str(passed), shown)
    months = _table("month", "revenue GBP", "orders")
    with serving.connect(lake, "1GB", None) as con:
        for month, revenue, orders in con.execute(_MONTHS).fetchall():
            months.add_row(month, f"{revenue:,.2f}", f"{orders:,}")
        chart.write(page, con.execute(_DAYS).fetchall())
        reasons = con.execute(_REASONS).fetchall()
    for part in (table, months):
        console.print(part, "")
    for day in sorted(held_days(Table(lake, _BRONZE))):
        console.print(
            f"[red]{day} is withheld[/red]: more of its records are dead letters than the failure budget allows. "
            "Silver and gold go on without that day until it is delivered again; under `make dev`, people are alerted. "
            "The dead letters:"
        )
    for reason, count in reasons:
        console.print(f"  {count:>3}  {reason}", markup=False, highlight=False)
    console.print("\n[bold]What to type next[/bold]")
    for command, why in _NEXT:
        console.print(f"  {command:<70} [dim]{why}[/dim]", soft_wrap=True)
    console.print(f"  {'open ' + _shown(page):<70} [dim]revenue by day[/dim]", soft_wrap=True)


def _table(*names: str) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(names):
        table.add_column(name, justify="right" if at else "left")
    return table


def _shown(path: Path) -> str:
    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
