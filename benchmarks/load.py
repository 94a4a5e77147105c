"""Benchmark `load`: what a process pays to load the code location, as each run and each restart do."""

import sys
from pathlib import Path

from benchmarks import measure
from benchmarks.pipeline import environment
from benchmarks.report import Result, Target

_ROUNDS = 7
_OURS, _PEER = "the code location", "import dagster, dagster_dbt"
_PROGRAMS = {_OURS: "import pipeline_assets.definitions as d; d.defs()", _PEER: "import dagster, dagster_dbt"}


def run(folder: Path) -> Result:
    """Times both programs with a ready dbt manifest and compiled bytecode."""
    env = environment(folder)
    contenders = [measure.Contender(name, [sys.executable, "-c", text], env) for name, text in _PROGRAMS.items()]
    measure.alternate(contenders, 1)  # compiles bytecode; parses the dbt project if its manifest is older
    found = measure.alternate(contenders, _ROUNDS)
    middle = {name: measure.middle(usages) for name, usages in found.items()}
    return Result(
        "load",
        "a fresh process loads the code location",
        ["", "CPU s", "wall s", "peak MB"],
        [[name, usage.cpu_seconds, usage.wall_seconds, usage.peak_rss_mb] for name, usage in middle.items()],
        [Target("CPU seconds, times the bare imports", middle[_OURS].cpu_seconds / middle[_PEER].cpu_seconds, 1.4)],
        [f"Medians of {_ROUNDS} alternating runs."],
        {"runs": found},
    )
