"""Landing files to gold: ingest, audit if asked for, then calls of dbt. One argument: the task as JSON.

The task: `first` and `last` day, `audit` (true or false), `dbt` (a list of commands), `phases` (file for what each phase
took: wall seconds, and CPU seconds with those of child processes).
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


class _Clock:
    """Notes what each phase takes."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, float]] = {}
        self._wall, self._cpu = self._now()

    def phase_ends(self, name: str) -> None:
        wall, cpu = self._now()
        self.taken[name] = {"wall_seconds": wall - self._wall, "cpu_seconds": cpu - self._cpu}
        self._wall, self._cpu = wall, cpu

    @staticmethod
    def _now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    """Runs the task."""
    clock, task = _Clock(), json.loads(sys.argv[1])
    from datetime import date

    from pipeline_assets.contracts.base import contract
    from pipeline_assets.ingest.files import ingest as landing
    from pipeline_assets.ingest.files.path_pattern import PathPattern
    from pipeline_assets.lake import Lake
    from pipeline_assets.settings import load_settings

    pattern = PathPattern.parse("shop/invoice_lines/{date}/*")
    source = landing.LandingSource("shop__invoice_lines", pattern, contract("shop.InvoiceLines"))
    settings = load_settings()
    lake = Lake(settings.lake_uri, settings.storage_options())
    days = date.fromisoformat(task["first"]), date.fromisoformat(task["last"])
    clock.phase_ends("imports")
    with lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con:
        root, settle = Path(settings.landing_uri), settings.settle_seconds
        landing.ingest(lake, con, source, root, *days, settle_seconds=settle)
    clock.phase_ends("ingest")
    if task["audit"]:
        from pipeline_assets.ingest.batch.audit import audit

        with lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con:
            audit(con, source.table(lake), source.model, failure_budget=0.01, days=days)
        clock.phase_ends("audit")
    for command in task["dbt"]:
        subprocess.run(command, check=True)
    clock.phase_ends("dbt")
    Path(task["phases"]).write_text(json.dumps(clock.taken))


if __name__ == "__main__":
    main()
