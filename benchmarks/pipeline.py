"""The pipeline as contenders use it: its environment, and the command that brings landing files to gold.

The command does what a Dagster run does, without Dagster: ingest, audit, then dbt's command line with the variables and
options of `components.assets.lean_dbt`. So what is measured is this project's work, not the orchestrator's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from shutil import copy, rmtree

from pipeline_assets.components.assets.lean_dbt import LEAN_DBT, dbt_executable
from pipeline_assets.settings import project_root

BRONZE = "bronze.shop__invoice_lines"
MODELS = ("silver.invoice_lines", "gold.customer_metrics", "gold.product_sales", "gold.daily_sales")
"""In an order that dbt may build them in."""
RUN: Sequence[Sequence[str]] = [["run"]]
"""The models in one call, without their tests."""
BUILD: Sequence[Sequence[str]] = [
    ["build", "--exclude-resource-type", "unit_test", "--select", f"config.schema:{layer}"]
    for layer in ("silver", "gold")
]
"""As Dagster calls dbt: layer by layer, with the data tests."""

CONTENDERS = Path(__file__).parent / "contenders"
MEMORY_LIMIT = "1GB"
_PARSED = "partial_parse.msgpack"


def environment(folder: Path) -> dict[str, str]:
    """A pipeline of its own below a folder, whatever the caller's environment says."""
    return {
        "PIPELINE_STATE_DIR": str(folder / "state"),
        "PIPELINE_LAKE_URI": str(folder / "lake"),
        "PIPELINE_LANDING_URI": str(folder / "landing"),
        "PIPELINE_DUCKDB_MEMORY_LIMIT": MEMORY_LIMIT,
        "PYTHONDONTWRITEBYTECODE": "",  # empty is unset: without bytecode every process compiles dagster and dbt again
    }


def parse_dbt(folder: Path) -> Path:
    """Parses the dbt project into a folder; gives the file from which later calls of dbt start."""
    project = str(project_root() / "dbt_project")
    command = [dbt_executable(), "--quiet", "parse", "--project-dir", project, "--profiles-dir", project]
    subprocess.run([*command, "--target-path", str(folder)], check=True, capture_output=True)
    return folder / _PARSED


@dataclass(frozen=True)
class LandingToGold:
    """A lake, its landing folder, and the command that brings days from one to the other.

    Attributes:
        folder: Holds both, as `environment` says.
        parsed: What `parse_dbt` gave.
    """

    folder: Path
    parsed: Path

    @property
    def lake(self) -> Path:
        """Root of the lake."""
        return self.folder / "lake"

    @property
    def landing(self) -> Path:
        """Root of the landing files."""
        return self.folder / "landing"

    @property
    def target(self) -> Path:
        """Dbt's artefacts of the last run, compiled SQL among them."""
        return self.folder / "target"

    def command(self, first: date, last: date, *, audit: bool, dbt: Sequence[Sequence[str]]) -> list[str]:
        """The process.

        Args:
            first: First day to ingest.
            last: Last day to ingest.
            audit: Whether the rows are audited, by which they are published.
            dbt: Arguments of each call of dbt.
        """
        task = {
            "first": first.isoformat(),
            "last": last.isoformat(),
            "audit": audit,
            "dbt": [[dbt_executable(), *arguments] for arguments in dbt],
            "phases": str(self.folder / "phases.json"),
        }
        return [sys.executable, str(CONTENDERS / "landing_to_gold.py"), json.dumps(task)]

    def environment(self) -> dict[str, str]:
        """Its variables."""
        project = str(project_root() / "dbt_project")
        return {
            **LEAN_DBT,
            **environment(self.folder),
            "DBT_PROJECT_DIR": project,
            "DBT_PROFILES_DIR": project,
            "DBT_TARGET_PATH": str(self.target),
            "DBT_LOG_PATH": str(self.target),
            "DBT_LOG_FORMAT": "json",
        }

    def phases(self) -> dict[str, dict[str, float]]:
        """Phase to what it took in the last run: `wall_seconds`, `cpu_seconds`."""
        found: dict[str, dict[str, float]] = json.loads((self.folder / "phases.json").read_text())
        return found

    def forget_lake(self) -> None:
        """Starts from nothing: no lake; dbt knows only the parsed project, as in each run of Dagster."""
        rmtree(self.lake, ignore_errors=True)
        self.fresh_target()

    def fresh_target(self) -> None:
        """A new target folder, which Dagster gives each run."""
        rmtree(self.target, ignore_errors=True)
        self.target.mkdir(parents=True)
        copy(self.parsed, self.target / _PARSED)

    def compiled(self, model: str) -> str:
        """The SQL of a model as dbt compiled it in the last run."""
        layer, name = model.split(".")
        return (self.target / f"compiled/pipeline_assets/models/{layer}/{name}.sql").read_text()


def day_folder(landing: Path, day: date) -> Path:
    """Where the shop's files of a day land; created."""
    folder = landing / "shop" / "invoice_lines" / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_old(path: Path) -> None:
    """Sets a file's time to the past, so that it counts as settled."""
    os.utime(path, (1.3e9, 1.3e9))
