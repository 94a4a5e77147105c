"""dagster-dbt without its start-up costs: dbt runs in a child process, and never in Dagster's own.

This module holds the parts of dagster-dbt that are used, imported so that they do not load dbt-core, and the resource
that calls dbt. The dbt processes are in `dbt_server`; the models are declared in `components.dbt_models`.
"""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_shared.libraries import DagsterLibraryRegistry
from packaging import version

from pipeline_assets.components.assets.dbt_server import DbtCall, start_ahead

DBT_VERSION = importlib.metadata.version("dbt-core")


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """Make imports in the block take a package for absent, unless it is loaded already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # None tells the import system that there is no such module
    try:
        yield
    finally:
        del sys.modules[package]


# dagster-dbt also works without dbt-core. With dbt-core it loads dbt's adapters and graph, to know dbt's version and to
# select models, which we do by ourselves. That costs 1.9 CPU seconds in each process, half of what loading the code
# location costs.
with _absent("dbt"):
    from dagster_dbt import (
        DagsterDbtTranslator,
        DagsterDbtTranslatorSettings,
        DbtCliInvocation,
        DbtCliResource,
        DbtProject,
    )
    from dagster_dbt.asset_utils import (
        DAGSTER_DBT_SELECT_METADATA_KEY,
        get_updated_cli_invocation_params_for_context,
    )

# The UI shows this for the code location. Without dbt-core, dagster-dbt assumes dbt Fusion.
DagsterLibraryRegistry.register("dbt-core", DBT_VERSION, is_dagster_package=False)
DagsterLibraryRegistry._libraries.pop("dbt-fusion", None)

# Switch off files that dbt reads or writes without need: each costs start-up time, and nothing here reads them.
LEAN_DBT = {
    "DBT_LOG_LEVEL_FILE": "none",
    "DBT_CACHE_SELECTED_ONLY": "true",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DBT_VERSION_CHECK": "false",
    # A test that reads silver and gold belongs to gold: by then its other parents are there.
    "DBT_INDIRECT_SELECTION": "buildable",
}


class TransformError(Exception):
    """The dbt project cannot be used; the message quotes dbt."""


class LeanDbtCliResource(DbtCliResource):
    """dagster-dbt's resource, with a dbt process that stays from call to call (`dbt_server`).

    It starts no `dbt --version` child, which would ask the package index. It makes no second adapter in Dagster's
    process, which would only fetch row counts (ours come from the Delta log).
    """

    parsed_project: str
    """The file in which `dbt parse` leaves the project."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Start dbt beside the run's first steps, so that it is ready when silver is built."""
        super().setup_for_execution(context)
        start_ahead(Path(self.parsed_project), Path(self.project_dir))

    def build(
        self,
        context: dg.AssetExecutionContext,
        arguments: Sequence[str],
        target_path: Path,
        environment: Mapping[str, str],
    ) -> DbtCliInvocation:
        """Start a dbt command over what the step has selected.

        Args:
            context: Context of the step.
            arguments: The command and its flags.
            target_path: Where dbt puts its artefacts.
            environment: Variables besides those of this process.
        """
        asked = get_updated_cli_invocation_params_for_context(context, {}, DagsterDbtTranslator())
        folder = Path(asked.dbt_project.project_dir if asked.dbt_project else self.project_dir)
        environment = {
            **os.environ,
            **LEAN_DBT,
            "DBT_WRITE_JSON": "false",
            "DBT_LOG_FORMAT": "json",
            "DBT_TARGET_PATH": str(target_path),
            "DBT_LOG_PATH": str(target_path),
            "DBT_PROFILES_DIR": self.profiles_dir or str(folder),
            "DBT_PROJECT_DIR": str(folder),
            **({"DBT_INDIRECT_SELECTION": asked.indirect_selection} if asked.indirect_selection else {}),
            **environment,
        }
        call = DbtCall(Path(self.parsed_project), folder, [*arguments, *asked.selection_args], environment)
        return DbtCliInvocation(
            process=call,  # type: ignore[arg-type]  # the part of Popen that it uses
            manifest=asked.manifest,
            dagster_dbt_translator=asked.dagster_dbt_translator,
            project_dir=folder,
            target_path=target_path,
            raise_on_error=True,
            context=context,
            project=asked.dbt_project,
            cli_version=version.parse(DBT_VERSION),
        )


def specs_of(
    models: Sequence[str], manifest: Mapping[str, Any], project: DbtProject, translator: DagsterDbtTranslator
) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    """Give models as assets, and the tests attached to them as checks.

    `dagster_dbt.dbt_assets` does the same for models that it selects with dbt's graph.

    Args:
        models: Unique ids of the models.
        manifest: Of the dbt project.
        project: The dbt project.
        translator: Gives the asset of a model.
    """
    specs = {model: translator.get_asset_spec(manifest, model, project) for model in models}
    checks = {
        check.key: check
        for model, spec in specs.items()
        for child in manifest["child_map"][model]
        if (check := translator.get_asset_check_spec(spec, manifest, child, project))
    }
    return list(specs.values()), list(checks.values())


def prepare_if_stale(project: DbtProject) -> None:
    """Parse the dbt project only if it has changed since its manifest was made.

    dagster-dbt's `prepare_if_dev` parses again in every run worker of `dagster dev` (+6 CPU seconds a run).
    """
    if not is_stale(project.manifest_path, Path(project.project_dir)):
        return
    folder = str(project.project_dir)
    command = [dbt_executable(), "--quiet", "parse", "--project-dir", folder, "--profiles-dir", folder]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **LEAN_DBT})  # noqa: S603
    if done.returncode:
        raise TransformError(f"dbt cannot parse {folder}:\n{done.stdout}{done.stderr}")


def is_stale(manifest: Path, project: Path) -> bool:
    """Tell whether a source file of a dbt project was added, changed or removed after its manifest was made."""
    if not manifest.exists():
        return True
    made = manifest.stat().st_mtime
    # A removed file leaves its folder younger. The project's own folder does not count: dbt writes into it.
    roots = [root for name in ("models", "macros", "tests") if (root := project / name).is_dir()]
    folders = [*roots, *(folder for root in roots for folder in root.rglob("*/"))]
    files = (path for folder in (project, *folders) for path in folder.glob("*"))
    sources = (path for path in files if path.suffix in {".sql", ".yml", ".yaml"})
    return any(path.stat().st_mtime > made for path in (*folders, *sources))


def dbt_executable() -> str:
    """Give the dbt of this environment; the PATH may name another dbt, or none."""
    return str(Path(sys.executable).parent / "dbt")


__all__ = [
    "DAGSTER_DBT_SELECT_METADATA_KEY",
    "LEAN_DBT",
    "DagsterDbtTranslator",
    "DagsterDbtTranslatorSettings",
    "DbtCliInvocation",
    "DbtProject",
    "LeanDbtCliResource",
    "TransformError",
    "dbt_executable",
    "is_stale",
    "prepare_if_stale",
    "specs_of",
]
