"""The pipeline as contenders use it: its environment, and the command that brings landing files to gold.

The command does what a Dagster run does, without Dagster: `landing.ingest`, then dbt's command line with the variables
and options of `components.transform`. So what is measured is this project's work, not the orchestrator's.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from shutil import copy, rmtree

from pipeline_assets.components.transform import dbt_environment, dbt_executable
from pipeline_assets.settings import project_root

BRONZE = "bronze.shop__invoice_lines"
MODELS = ("silver.invoice_lines", "gold.customer_metrics", "gold.dim_products", "gold.daily_sales")
"""In an order that dbt may build them in."""

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

    @property
    def phases(self) -> Path:
        """JSON that the last run wrote: seconds of each phase."""
        return self.folder / "phases.json"

    def command(self, first: date, last: date, *dbt: str) -> list[str]:
        """The process; `dbt` is dbt's command with its options."""
        program = str(CONTENDERS / "landing_to_gold.py")
        return [sys.executable, program, first.isoformat(), last.isoformat(), str(self.phases), dbt_executable(), *dbt]

    def environment(self, first: date, last: date) -> dict[str, str]:
        """Its variables."""
        project = str(project_root() / "dbt_project")
        return {
            **dbt_environment(first, last),
            **environment(self.folder),
            "DBT_PROJECT_DIR": project,
            "DBT_PROFILES_DIR": project,
            "DBT_TARGET_PATH": str(self.target),
            "DBT_LOG_PATH": str(self.target),
            "DBT_LOG_FORMAT": "json",
        }

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
