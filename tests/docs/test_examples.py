"""The examples of README and docs: declarations are loaded, the bank's accounts come to silver as the pages say."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dbt.cli.main import dbtRunner
from doc_examples import declarations, load
from documents import DOCS, ROOT, Block, blocks_of, names, table
from postgres import execute
from pydantic_core import PydanticUndefined

from pipeline_assets import components, serving
from pipeline_assets.lake import Lake
from pipeline_assets.partitions import DAILY
from pipeline_assets.settings import Settings

DBT = "dbt_project/"
SINGLE_RUN = dg.BackfillPolicy.single_run()
PAGES_OF_COMPONENTS = {
    "LandingFiles": "files.md",
    "ChangeStream": "changes.md",
    "ChangeFiles": "change-files.md",
    "DatabaseTable": "pulls.md",
    "RestResource": "polls.md",
}


@pytest.mark.parametrize("block", declarations(), ids=str)
def test_each_declaration_loads_with_its_contract(block: Block, settings: Settings, example_contracts: None) -> None:
    component, defs = load(block)
    if block.title:
        assert block.title == f"pipeline_assets/defs/{component.name}/defs.yaml"
    jobs = dg.Definitions.merge(defs, dg.Definitions(assets=states(component))).get_repository_def().get_all_jobs()
    assert f"{component.name}__to_gold" in {job.name for job in jobs}


def _nothing() -> None:
    pass


def states(component: Any) -> list[dg.AssetsDefinition]:
    """The models that a stream names as states of its tables, which dbt would bring."""
    tables = getattr(component, "tables", {}).values()
    keys = [state.split(".") for table in tables if (state := getattr(table, "state", None))]
    return [dg.asset(key=key, partitions_def=DAILY, backfill_policy=SINGLE_RUN)(_nothing) for key in keys]


def test_each_yaml_block_is_a_declaration_or_a_file_of_dbt() -> None:
    known = set(declarations())
    assert known
    assert [str(block) for block in blocks_of("yaml") if block not in known and not block.title.startswith(DBT)] == []


@pytest.mark.parametrize(("name", "page"), PAGES_OF_COMPONENTS.items())
def test_the_attributes_are_those_of_the_component(name: str, page: str) -> None:
    told = {
        names(attribute)[0]: (names(default) or [""])[0]
        for attribute, default, _ in table(DOCS / "sources" / page, f"Attributes of `{name}`")
    }
    fields: dict[str, Any] = getattr(components, name).model_fields
    assert told == {field: shown(info.default) for field, info in fields.items()}


def shown(default: object) -> str:
    """A default as YAML has it; nothing for none, an empty text and an empty mapping."""
    if default is PydanticUndefined or default in (None, ""):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_each_pagination_and_auth_of_the_page_is_one(settings: Settings, example_contracts: None) -> None:
    page = DOCS / "sources" / "polls.md"
    (block,) = (block for block in declarations() if block.page == page)
    declared = yaml.safe_load(block.text)["attributes"]
    paginations = [yaml.safe_load(names(cell)[0]) for cell, _ in table(page, "Pagination")]
    assert len(paginations) == 6
    for pagination in paginations:
        components.RestResource.resolve_from_dict({**declared, "pagination": pagination})
    auths = {names(kind)[0]: names(fields) for kind, fields in table(page, "Auth")}
    for kind, fields in auths.items():
        values = {
            field: "query" if field == "location" else "https://x" if field == "token_url" else "NAME"
            for field in fields
            if field not in ("header", "query")
        }
        components.RestResource.resolve_from_dict({**declared, "auth": {"type": kind, **values}})


def test_python_of_the_pages_is_written_as_ours(tmp_path: Path) -> None:
    for number, block in enumerate(blocks_of("python")):
        if block.title:
            (tmp_path / f"block_{number}.py").write_text(block.text)
    assert list(tmp_path.iterdir())
    ruff = [str(Path(sys.executable).parent / "ruff")]
    for command in (["check", "--quiet"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *command, "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=ROOT,  # below it ruff looks for what is our own package
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_statements_for_the_source_are_postgresql(database: str) -> None:
    """Other SQL is a model, which dbt builds below, or the notebook's, which its own test runs."""
    shown = [block for block in blocks_of("sql") if not block.title and block.page.name != "notebook.md"]
    assert shown
    execute(database, "CREATE TABLE invoices (invoice_id bigint PRIMARY KEY)", *(block.text for block in shown))


@pytest.fixture
def dbt_project(tmp_path: Path) -> Path:
    """The project, and in it what the pages show of it."""
    project = tmp_path / "dbt_project"
    shutil.copytree(ROOT / "dbt_project", project, ignore=shutil.ignore_patterns("target", "logs"))
    shown = [block for block in blocks_of("yaml", "sql") if block.title.startswith(DBT)]
    assert len(shown) > 3
    for block in shown:
        path = project / block.title.removeprefix(DBT)
        assert not path.exists(), f"{block} would replace a file of the project"
        path.write_text(block.text)
    # The pages refer to the shop's change tables for what is the same of every change table.
    changes = yaml.safe_load((project / "models/sources/shop_db.yml").read_text())
    bronze = changes["sources"][0]
    bronze["tables"] = [{**bronze["tables"][0], "name": "erp__invoices"}]
    (project / "models/sources/erp.yml").write_text(yaml.safe_dump(changes))
    return project


@pytest.mark.slow
def test_the_accounts_of_the_bank_come_to_silver(
    settings: Settings, example_contracts: None, dbt_project: Path
) -> None:
    for block in blocks_of("csv"):
        path = Path(settings.landing_uri) / block.title.removeprefix("landing/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        os.utime(path, (time.time() - 3600,) * 2)
    (declared,) = (block for block in declarations() if block.title.endswith("/bank__accounts/defs.yaml"))
    _, defs = load(declared)
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def("bank__accounts__to_gold")
        done = job.execute_in_process(instance=instance, partition_key="2011-01-04")
    checks = {check.check_name: check.passed for check in done.get_asset_check_evaluations()}
    assert {"contract", "failure_budget", "snapshot_size", "withheld", "files_read"} < checks.keys()
    assert set(checks.values()) == {True}
    folders = ["--project-dir", str(dbt_project), "--profiles-dir", str(dbt_project)]
    models = ["bank_accounts", "erp_invoices", "erp_invoices_history"]
    built = dbtRunner().invoke(["--quiet", "build", "--select", *models, *folders])
    assert built.success, built.exception
    with serving.connect(Lake(settings.lake_uri), "1GB", None) as con:
        columns = "account_id, opened_on::text, balance_gbp::text, _deleted, _changed_date::text"
        assert con.execute(f"SELECT {columns} FROM silver.bank_accounts ORDER BY 1").fetchall() == [
            ("A-1", "2009-05-04", "10.50", False, "2011-01-04"),
            ("A-2", "2010-01-31", "-3.00", False, "2011-01-04"),
        ]
        ((reason, raw),) = con.execute("SELECT reason, raw FROM dead_letters.bank__accounts").fetchall()
    assert re.search("opened_on: '31/12/2010'", reason)
    assert "A-3" in raw
