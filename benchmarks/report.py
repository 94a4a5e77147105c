"""A benchmark's result: the table on the terminal, the JSON file, and the machine that it was measured on.

What of it the documentation quotes is in `figures`.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import figures

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "dagster",
    "dagster-dbt",
    "dbt-core",
    "dbt-duckdb",
    "duckdb",
    "deltalake",
    "pandera",
    "polars",
    "pyarrow",
)


@dataclass(frozen=True)
class Target:
    """A figure that is promised: `found` must not exceed `limit`."""

    what: str
    found: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.found <= self.limit

    def __str__(self) -> str:
        """One line for people."""
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {self.found:.2f} (at most {self.limit:g})"


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        name: The benchmark.
        question: What it answers, in one line.
        columns: Column names of the table; the first is the label.
        rows: Cells of the table: text or numbers.
        targets: What was promised.
        notes: How to read the table.
        raw: Everything that was measured, for the JSON file.
    """

    name: str
    question: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)


def show(result: Result, console: Console) -> None:
    """Prints the table, what was promised and the notes."""
    table = Table(title=f"{result.name}: {result.question}", title_justify="left", header_style="bold", box=None)
    for at, name in enumerate(result.columns):
        table.add_column(name, justify="right" if at else "left")
    for row in result.rows:
        table.add_row(*(figures.cell(value) for value in row))
    console.print(table)
    for target in result.targets:
        console.print(f"  {target}", style="green" if target.met else "red", highlight=False)
    for note in result.notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
    console.print()


def write(result: Result, seconds: float) -> Path:
    """Write the JSON file `results/<name>.json`, and record its figures for the documentation.

    Args:
        result: The result.
        seconds: How long the benchmark took.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result.name}.json"
    facts = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_seconds": round(seconds, 1),
        "machine": machine(),
        **asdict(result),
        "targets": [{**asdict(target), "met": target.met} for target in result.targets],
    }
    text = json.dumps(facts, indent=1, default=_plain)
    path.write_text(text + "\n")
    figures.record(json.loads(text))
    return path


def machine() -> dict[str, Any]:
    """The machine and the versions: a figure without them says little."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages * page_bytes / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _plain(value: object) -> object:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)  # type: ignore[call-overload]
