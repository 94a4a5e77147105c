"""Benchmark `sensor`: one tick over a landing folder whose files are in the table already, when ten new files land."""

import json
import sys
from pathlib import Path
from statistics import median

from benchmarks import measure
from benchmarks.pipeline import CONTENDERS, environment
from benchmarks.report import Result, Target

_ROUNDS = 7
_FOLDERS = (1_000, 100_000)
_TICKS = {
    "nothing_new": "nothing new",
    "ten_new": "10 new files",
    "cursor_lost": "10 new files, cursor lost",
}


def run(folder: Path) -> Result:
    """Times ticks over a small and a large folder; each in one process, as in a code server."""
    rows: list[list[str | float]] = []
    targets, raw = [], {}
    for files in _FOLDERS:
        place, result = folder / str(files), folder / f"{files}.json"
        command = [sys.executable, str(CONTENDERS / "sensor_ticks.py"), str(files), str(_ROUNDS), str(result)]
        measure.run(command, environment(place))
        raw[files] = found = json.loads(result.read_text())
        for key, name in _TICKS.items():
            wall = median(tick["wall_seconds"] for tick in found[key])
            cpu = median(tick["cpu_seconds"] for tick in found[key])
            rows.append([f"{files:,} old files, {name}", cpu, wall])
            if files == max(_FOLDERS):
                targets.append(Target(f"CPU seconds, {name}", cpu, 1.0))
    cursor = raw[max(_FOLDERS)]["cursor_bytes"]
    return Result(
        "sensor",
        "one tick of the landing sensor over 305 day folders",
        ["", "CPU s", "wall s"],
        rows,
        targets,
        [
            f"Medians of {_ROUNDS} ticks. SQLite instance with 305 runs; the log holds each day and each file.",
            f"The large folder's cursor has {cursor / 1000:.1f} kB.",
        ],
        raw,
    )
