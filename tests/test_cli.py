"""What the command line prints, for people and for programs."""

import json

import pytest
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.lake import Lake, Table, query_schema
from pipeline_assets.settings import Settings, load_settings

ROWS = "SELECT i AS id, (i * 1.5)::DECIMAL(12, 3) AS amount, DATE '2011-01-04' AS day FROM range(300) AS t(i)"


@pytest.fixture
def lake(settings: Settings) -> Lake:
    found = Lake(settings.lake_uri)
    with found.connect() as con:
        table = Table(found, "gold.sales")
        table.create(query_schema(con, ROWS))
        table.append(con, ROWS, batch_id="a")
    return found


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_query_reads_tables_as_views(lake: Lake) -> None:
    code, output = invoke("query", "select count(*) as n, sum(amount) as total from gold.sales")
    assert code == 0
    assert "300" in output
    assert "67275.000" in output


def test_query_for_programs_is_json_with_all_rows(lake: Lake) -> None:
    code, output = invoke("query", "--json", "select * from gold.sales order by id")
    rows = json.loads(output)
    assert (code, len(rows), rows[1]) == (0, 300, {"id": 1, "amount": "1.500", "day": "2011-01-04"})


def test_query_for_people_says_when_it_does_not_show_all(lake: Lake) -> None:
    code, output = invoke("query", "select * from gold.sales")
    assert code == 0
    assert "only the first 200 rows" in output


@pytest.mark.parametrize("sql", ["select * from gold.nothing", "selekt", "select 1/'x'"])
def test_a_wrong_query_is_a_message_and_an_exit_code(lake: Lake, sql: str) -> None:
    code, output = invoke("query", sql)
    assert code == 1
    assert "Error" in output
    assert "Traceback" not in output


def test_tables_are_listed_with_what_the_log_says(lake: Lake) -> None:
    code, output = invoke("tables")
    assert code == 0
    assert "gold.sales" in output
    found = json.loads(invoke("tables", "--json")[1])
    assert [(t["name"], t["rows"], t["files"], t["version"]) for t in found] == [("gold.sales", 300, 1, 1)]


def test_an_empty_lake_says_what_to_do(settings: Settings) -> None:
    code, output = invoke("tables")
    assert code == 0
    assert "make demo" in output
    assert json.loads(invoke("tables", "--json")[1]) == []


def test_wrong_settings_are_one_clear_message(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_SETTLE_SECONDS", "soon")
    load_settings.cache_clear()
    code, output = invoke("tables")
    assert code == 1
    assert "PIPELINE_SETTLE_SECONDS" in output
    assert "Traceback" not in output
