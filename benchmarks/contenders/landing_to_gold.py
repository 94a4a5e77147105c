"""Landing files to gold: `landing.ingest`, then dbt. Arguments: first day, last day, file for phases, dbt's command.

Writes wall and CPU seconds of each phase as JSON; dbt's are those of its process.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def _now() -> tuple[float, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def main() -> int:
    """Runs both, and notes what each took."""
    marks = {"start": _now()}
    from datetime import date

    from pipeline_assets.contracts.base import contract
    from pipeline_assets.ingest import landing
    from pipeline_assets.ingest.path_pattern import PathPattern
    from pipeline_assets.lake import Lake
    from pipeline_assets.settings import load_settings

    pattern = PathPattern.parse("shop/invoice_lines/{date}/*")
    source = landing.LandingSource("shop__invoice_lines", pattern, contract("shop.InvoiceLines"))
    settings = load_settings()
    lake = Lake(settings.lake_uri, settings.storage_options())
    marks["imports"] = _now()
    first, last, phases, *dbt = sys.argv[1:]
    with lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con:
        report = landing.ingest(
            lake,
            con,
            source,
            Path(settings.landing_uri),
            date.fromisoformat(first),
            date.fromisoformat(last),
            settle_seconds=settings.settle_seconds,
        )
    marks["ingest"] = _now()
    code = subprocess.run(dbt).returncode if dbt[1:] else 0
    marks["dbt"] = _now()
    steps = list(marks.items())
    taken = {
        name: {"wall_seconds": now[0] - before[0], "cpu_seconds": now[1] - before[1]}
        for (_, before), (name, now) in zip(steps, steps[1:], strict=False)
    }
    Path(phases).write_text(json.dumps({"rows": report.total.rows, "phases": taken}))
    return code


if __name__ == "__main__":
    sys.exit(main())
