"""Commands in README and docs: those that read the lake are run, the others are held against their programs."""

import re
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
from documents import GUIDES, ROOT, codes
from shell_examples import commands, problem, words
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.contracts.base import column_schema, contract
from pipeline_assets.definitions import defs
from pipeline_assets.lake import Lake, Table, query_schema
from pipeline_assets.lake.dead_letters import COLUMNS
from pipeline_assets.partitions import DAILY
from pipeline_assets.settings import Settings

SHOWN = [(page, line, command) for page in GUIDES for line, command in commands(page)]
# Code within a line that is a command, not only the name of a program. What stands in <> is the reader's to fill in.
_COMMAND = re.compile(r"^((\.\./)?\.venv/bin/\S+|make|dg|dagster|dbt|pipeline) [a-z][^<]*$")
INLINE = [(page, line, code) for page in GUIDES for line, code in codes(page) if _COMMAND.match(code)]
TABLES = ("gold.daily_sales", "silver.invoice_lines", "silver.products_history")


def where(value: object) -> str | None:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


@pytest.mark.parametrize(("page", "line", "command"), [*SHOWN, *INLINE], ids=where)
def test_a_command_names_what_there_is(page: Path, line: int, command: str) -> None:
    assert [found for found in map(problem, words(command)) if found] == []


def test_the_pages_show_commands() -> None:
    assert SHOWN
    assert INLINE


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("make demonstrate", "no target demonstrate"),
        (".venv/bin/pipeline tabels", "no command tabels"),
        (".venv/bin/pipeline tables retype x --now", "no option --now"),
        (".venv/bin/dg launch --jobs x", "no option --jobs"),
        ("cd dbt && ../.venv/bin/dbt build", "no folder dbt"),
        ("rm -rf x", "none of make"),
    ],
)
def test_a_wrong_command_is_found(command: str, said: str) -> None:
    assert said in str([problem(each) for each in words(command)])


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """The tables that the examples read, with a row of one of them."""
    found = Lake(settings.lake_uri)
    with found.connect() as con:
        for name in TABLES:
            nothing = ", ".join(f'NULL::{column.dtype} AS "{column.name}"' for column in column_schema(contract(name)))
            Table(found, name).create(query_schema(con, f"SELECT {nothing}"))
        letters = ", ".join(f'NULL::{dtype} AS "{name}"' for name, dtype in COLUMNS.items())
        Table(found, "dead_letters.shop__invoice_lines").create(query_schema(con, f"SELECT {letters}"))
        bronze = Table(found, "bronze.shop__invoice_lines")
        rows = "SELECT 7::BIGINT AS quantity, NULL::VARCHAR AS _rescued"
        bronze.create(query_schema(con, rows))
        bronze.append(con, rows, batch_id="a")
    return found


def test_commands_that_read_the_lake_run(lake: Lake) -> None:
    run = [
        each[1:]
        for _, _, command in SHOWN
        for each in words(command)
        if each[0].endswith("/pipeline") and each[1] in ("tables", "query")
    ]
    assert {each[0] for each in run} == {"tables", "query"}
    for each in run:
        done = CliRunner().invoke(app, each)
        assert done.exit_code == 0, (each, done.output)


def test_commands_name_jobs_assets_and_partitions_that_there_are() -> None:
    graph, repository = defs().resolve_asset_graph(), defs().get_repository_def()
    jobs, checked = {job.name for job in repository.get_all_jobs()}, set()
    for page, line, command in [*SHOWN, *INLINE]:
        for each in words(command):
            options = dict(pairwise(each))
            place = f"{page.relative_to(ROOT)}:{line}"
            if each[0] == "dbt" or each[0].endswith("/dbt"):
                models = {key.path[1] for key in graph.get_all_asset_keys() if key.path[0] in ("silver", "gold")}
                assert options["--select"].strip("+") in models, place
            elif "--select" in options:
                assert dg.AssetSelection.from_string(options["--select"]).resolve(graph), place
            for name in ("-j", "--job"):
                assert name not in options or options[name] in jobs, place
            for name in ("--partition", "--partition-range"):
                for day in options.get(name, "").split("...") if name in options else ():
                    assert DAILY.has_partition_key(day), place
            checked |= options.keys()
    assert {"--select", "-j", "--job", "--partition", "--partition-range"} <= checked
