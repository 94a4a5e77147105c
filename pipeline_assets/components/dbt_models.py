"""The `DbtModels` component: the dbt project's models as assets, its tests and the Pandera contracts as checks.

Each run makes one dbt call per layer, over the run's whole range of days. The positions in the Delta logs decide which
dates a model recomputes (`lake.changes`, dbt_project/macros); a run by hand adds the days that it asks for.

Concept: https://docs.dagster.io/integrations/libraries/dbt
"""

import json
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from pipeline_assets.components.assets.column_lineage import column_lineage
from pipeline_assets.components.assets.contract_checks import table_contract_check
from pipeline_assets.components.assets.lean_dbt import (
    DAGSTER_DBT_SELECT_METADATA_KEY,
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtCliInvocation,
    DbtProject,
    LeanDbtCliResource,
    dbt_executable,
    prepare_if_stale,
    specs_of,
)
from pipeline_assets.components.automation.cancellation import RETRIES, interruptible
from pipeline_assets.components.automation.landing_sensor import SOURCE_TAG
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import contract
from pipeline_assets.interruption import ended_by
from pipeline_assets.lake import LAYERS, Lake, Table
from pipeline_assets.lake.commit_facts import TOUCHED_DATES
from pipeline_assets.lake.spill import spill_folder
from pipeline_assets.partitions import DAILY, range_of_tags
from pipeline_assets.settings import load_settings, project_root

# Unit tests test the SQL, not the data: `make test` runs them, and a nightly run does not.
_BUILD = ["build", "--exclude-resource-type", "unit_test"]


class LakeTranslator(DagsterDbtTranslator):
    """Gives dbt's names as Dagster's: `silver.invoice_lines` is asset `silver/invoice_lines` in group `silver`."""

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """Give the layer and the table."""
        if dbt_resource_props["resource_type"] == "source":
            return dg.AssetKey([dbt_resource_props["source_name"], dbt_resource_props["name"]])
        return dg.AssetKey([dbt_resource_props["schema"], dbt_resource_props["name"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """Give the layer."""
        return str(dbt_resource_props["schema"])

    def get_partitions_def(self, dbt_resource_props: Mapping[str, Any]) -> dg.PartitionsDefinition | None:
        """Give every model the days of bronze as partitions."""
        return DAILY


class DbtModels(dg.Component, dg.Model, dg.Resolvable):
    """The models of a dbt project, a step for each layer: the days that changed, and those that a backfill asks for."""

    project: str = "dbt_project"
    """Folder of the dbt project, relative to the root."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build assets, checks and the dbt resource."""
        project = DbtProject(project_dir=project_root() / self.project)
        prepare_if_stale(project)
        translator = LakeTranslator(DagsterDbtTranslatorSettings(enable_code_references=False))
        manifest = json.loads(project.manifest_path.read_text())
        models = _models(manifest)
        layers = list(dict.fromkeys(props["schema"] for props in sorted(models.values(), key=_layer_order)))
        resource = LeanDbtCliResource(
            project_dir=str(project.project_dir),
            dbt_executable=dbt_executable(),
            parsed_project=str(project.manifest_path.with_name("partial_parse.msgpack")),
        )
        return dg.Definitions(
            assets=[_layer(layer, project, manifest, translator) for layer in layers],
            asset_checks=[
                table_contract_check(
                    translator.get_asset_key(props), contract(table_name(props)), _readers(unique_id, models)
                )
                for unique_id, props in models.items()
            ],
            resources={"dbt": resource},
        )


def _layer(
    layer: str, project: DbtProject, manifest: Mapping[str, Any], translator: LakeTranslator
) -> dg.AssetsDefinition:
    """Make one step of the models of a layer. One step a layer, so that silver's checks stand between it and gold."""
    models = _models(manifest)
    names = [unique_id for unique_id, props in models.items() if props["schema"] == layer]
    specs, check_specs = specs_of(names, manifest, project, translator)

    @dg.multi_asset(
        specs=specs,
        check_specs=check_specs,
        name=f"dbt_{layer}",
        can_subset=True,
        op_tags={DAGSTER_DBT_SELECT_METADATA_KEY: f"config.schema:{layer}"},
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool="transform",
        # If two runs run at once (two people on the command line can start them), the slower one plans again.
        retry_policy=RETRIES,
    )
    def build(context: dg.AssetExecutionContext, dbt: LeanDbtCliResource, lake: LakeResource) -> Iterator[Any]:
        # A sensor asks for what is new, and the logs know which days that affects. A person who asks by hand wants
        # those days rebuilt; a run of checks alone (no partition) asks for no day.
        days = range_of_tags(context.run.tags)
        asked = {} if days is None or SOURCE_TAG in context.run.tags else asked_days(*days)
        # dagster-dbt would put a run's artefacts below the project, and they would grow with every run.
        with TemporaryDirectory(dir=spill_folder()) as target:
            invocation = dbt.build(context, _BUILD, Path(target), {**lake_environment(), **asked})
            for event in _until_canceled(invocation):
                if isinstance(event, dg.Output | dg.AssetMaterialization):
                    props = models[str(event.metadata["unique_id"].value)]
                    facts = _facts(lake.open(), props, manifest, invocation.target_path, translator)
                    yield event.with_metadata({**event.metadata, **facts})
                else:
                    yield event

    return build


def _until_canceled(invocation: DbtCliInvocation) -> Iterator[Any]:
    """Yield dbt's events; when the stream ends for any reason, dbt has ended, too.

    dagster-dbt ends dbt only if the interrupt comes while it reads from dbt, not between two events, and it waits for
    dbt for 25 seconds. If dbt is killed in the middle of a commit, it leaves what a power cut would: the next run mends
    it.
    """
    process = invocation.process
    try:
        with interruptible() as canceled, ended_by(process.terminate):
            for event in invocation.stream():
                if canceled.is_set():
                    raise dg.DagsterExecutionInterruptedError
                yield event
    finally:
        process.kill()
        process.wait()


def _layer_order(props: Mapping[str, Any]) -> int:
    return LAYERS.index(props["schema"])


def _readers(unique_id: str, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Give the tables that read a model's table."""
    return [table_name(props) for props in models.values() if unique_id in props["depends_on"]["nodes"]]


def lake_environment() -> dict[str, str]:
    """Give what dbt needs to reach the lake besides the `PIPELINE_*` variables that are set: explicit defaults."""
    return {"PIPELINE_LAKE_URI": load_settings().lake_uri}


def asked_days(first: date, last: date) -> dict[str, str]:
    """Give dbt the days to rebuild by environment: with other `--vars` it would parse the project again."""
    return {"PIPELINE_MIN_DATE": first.isoformat(), "PIPELINE_MAX_DATE": last.isoformat()}


def table_name(props: Mapping[str, Any]) -> str:
    """Give the table of a model, and the name of its contract."""
    return f"{props['schema']}.{props['name']}"


def _models(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {key: node for key, node in manifest["nodes"].items() if node["resource_type"] == "model"}


def _facts(
    lake: Lake, props: Mapping[str, Any], manifest: Mapping[str, Any], target_path: Path, translator: LakeTranslator
) -> dict[str, Any]:
    """Give what the table's log says of the commit just made, and the columns' lineage."""
    table = Table(lake, table_name(props)).open()
    commit = table.history(1)[0]
    facts: dict[str, Any] = {
        "delta_version": commit["version"],
        "dagster/row_count": table.count(),
        **{key: int(commit[key]) for key in ("rows_added", "rows_removed") if key in commit},
    }
    if TOUCHED_DATES in commit:
        touched = json.loads(commit[TOUCHED_DATES])
        facts |= {"touched_days": len(touched), "touched_dates": touched[:100]}
    compiled = target_path / "compiled" / props["package_name"] / props["original_file_path"]
    if compiled.exists():
        by_id = {**manifest["nodes"], **manifest["sources"]}
        lineage = column_lineage(
            props, manifest, compiled.read_text(), lambda key: translator.get_asset_key(by_id[key])
        )
        facts |= {"dagster/column_lineage": lineage} if lineage else {}
    return facts
