"""The last figures of each benchmark: `figures.json`, and the page docs/figures.md that is made of it.

These are the only figures that the documentation quotes. What each run measured in detail is in `results/`, which git
ignores. `python -m benchmarks.figures` makes the page anew without measuring anything.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = ("load", "writer", "sensor", "small_files", "day_to_gold", "year_ten", "merge", "cdc", "pull", "memory")
"""The benchmarks, each a module of this package, in the order in which they run."""

FIGURES = Path(__file__).parent / "figures.json"
PAGE = Path(__file__).parent.parent / "docs" / "figures.md"

_INTRODUCTION = """\
# Figures

`make bench` measures all of this again; [benchmarks/README.md](../benchmarks/README.md) says how. Each benchmark writes
its last result here, so this page holds no figure that a program did not write: `benchmarks/figures.json` is the source,
and a test compares the two.

The load average says how busy the machine was with other work. Where it is well above the number of cores, trust CPU
seconds and ratios, not the wall clock. A target is a promise to ourselves; one that is missed is an open task.
"""


def record(facts: Mapping[str, Any]) -> None:
    """Keep a result as the benchmark's last one, and make the page anew.

    Args:
        facts: What `report.write` writes to the JSON file of one benchmark.
    """
    found = load()
    found[facts["name"]] = {name: value for name, value in facts.items() if name != "raw"}
    FIGURES.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
    PAGE.write_text(page(found))


def load() -> dict[str, Any]:
    """Read the last result of each benchmark, by its name."""
    return dict(json.loads(FIGURES.read_text())) if FIGURES.exists() else {}


def page(figures: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        figures: The last result of each benchmark, by its name.
    """
    open_yet = [name for name in NAMES if name not in figures]
    missing = [f"Not measured yet: {', '.join(f'`{name}`' for name in open_yet)}.\n"] if open_yet else []
    return "\n".join([_INTRODUCTION, *missing, *(_section(found) for _, found in sorted(figures.items()))])


def cell(value: str | float) -> str:
    """Show a cell of a result's table: text as it is, numbers with the digits that matter."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _section(found: Mapping[str, Any]) -> str:
    columns, machine = found["columns"], found["machine"]
    table = [columns, ["---", *("---:" for _ in columns[1:])], *found["rows"]]
    lines = [f"| {' | '.join(map(cell, row))} |" for row in table]
    promised = [
        f"- **{'met' if target['met'] else 'missed'}**: {target['what']}: {cell(target['found'])}, "
        f"at most {target['limit']:g}"
        for target in found["targets"]
    ]
    notes = [f"- {note}" for note in found["notes"]]
    measured = (
        f"Measured on {found['measured_at'][:10]} with {machine['cores']} cores, {machine['memory_gb']} GB and a load "
        f"average of {machine['load_average']:g}; it took {found['took_seconds']:,.0f} s."
    )
    return "\n".join(
        [
            f"## {found['name']}\n",
            f"{found['question'][:1].upper()}{found['question'][1:]}.\n",
            *lines,
            "",
            *promised,
            *notes,
            "",
            measured,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(load()))
