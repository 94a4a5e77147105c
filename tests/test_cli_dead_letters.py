"""`pipeline dead-letters`: what it prints of the waiting ones, and what replay and discard do and say."""

import csv
import json
import os
from datetime import UTC, date, datetime
from pathlib import Path

import pandera.polars as pa
import polars as pl
import pytest
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.cdc.events import Reject
from pipeline_assets.ingest.cdc.table.change_table import EventPlan, UnroutedBatch
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

NAME, DAY = "shop__invoice_lines", "2011-01-04"
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


class Strict(contract("shop.InvoiceLines")):  # type: ignore[misc]
    """The contract of the time before `description` was made nullable."""

    description: pl.String = pa.Field()

    class Config:
        """Not of the registry."""

        name = "test.strict_lines"


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """A row; a dead letter that would fit today's contract, and two that would not."""
    path = Path(settings.landing_uri) / "shop/invoice_lines" / DAY / "a.csv"
    path.parent.mkdir(parents=True)
    rest = f"{DAY} 08:26:00,2.55,17850,France\n"
    lines = [f"536001,A,HEART,6,{rest}", f"536002,B,,6,{rest}", f"536003,C,HEART,s3cret,{rest}", "536004\n"]
    path.write_text(HEADER + "".join(lines))
    os.utime(path, (1.3e9, 1.3e9))
    found = Lake(settings.lake_uri)
    source = LandingSource(NAME, PathPattern.parse("shop/invoice_lines/{date}/*"), Strict)
    with found.connect() as con:
        day = date.fromisoformat(DAY)
        landing.ingest(found, con, source, Path(settings.landing_uri), day, day, settle_seconds=5)
    return found


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, ["dead-letters", *words])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, ["dead-letters", *words])
    assert result.exit_code == 1
    return " ".join(result.output.split())


def test_list_groups_by_reason_without_the_values_and_names_the_remedy(lake: Lake) -> None:
    found = json.loads(invoke("list", "--json"))
    assert [(each["table"], each["reason"], each["records"], each["line"]) for each in found] == [
        (f"dead_letters.{NAME}", "cast: quantity: '...' is not BIGINT", 1, 4),
        (f"dead_letters.{NAME}", "csv: missing columns: expected N, found N", 1, 5),
        (f"dead_letters.{NAME}", "required: description is missing", 1, 3),
    ]
    assert {each["remedy"].partition(";")[0] for each in found} == {
        "mend the contract, then replay", "have it delivered again, mended, or pull again",
    }  # fmt: skip
    shown = invoke("list")
    assert "required: description is missing" in shown
    assert "s3cret" not in shown
    assert "quantity" not in invoke("list", NAME, "--reason", "required")
    assert "no dead letters wait" in invoke("list", NAME, "--day", "2011-01-05")


def test_show_and_export_give_the_records(lake: Lake, tmp_path: Path) -> None:
    assert "s3cret" in invoke("show", NAME)
    assert len(json.loads(invoke("show", f"dead_letters.{NAME}", "--limit", "2", "--json"))) == 2
    for name in ("found.csv", "found.jsonl"):
        assert "3 dead letters" in invoke("export", NAME, "--to", str(tmp_path / name))
    with (tmp_path / "found.csv").open(newline="") as file:
        of_csv = list(csv.DictReader(file))
    of_lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [each["raw"] for each in of_csv] == [each["raw"] for each in of_lines]
    assert of_lines[0]["raw"].startswith('{"InvoiceNo":"536002"')
    assert '"reason": "required: description is missing"' in invoke("export", NAME, "--limit", "1")
    assert "cannot be written: No such file" in refused("export", NAME, "--to", str(tmp_path / "none" / "found.csv"))


def test_replay_and_discard_say_what_they_did_and_which_job_goes_on(lake: Lake) -> None:
    said = " ".join(invoke("replay", NAME).split())
    assert f"dead_letters.{NAME}: 2 dead letters were tried, 1 are rows now, 2 still wait" in said
    assert "1 of those that wait hold no record to try: have it delivered again, mended, or pull again" in said
    assert f"start the job {NAME}__to_gold" in said
    with lake.connect() as con:
        scan = Table(lake, f"bronze.{NAME}").scan()
        assert con.execute(f"SELECT invoice_no, description FROM {scan} ORDER BY 1").fetchall() == [
            ("536001", "HEART"), ("536002", None),
        ]  # fmt: skip
    assert "2 dead letters were discarded, of 1 days" in invoke("discard", NAME)
    assert "no dead letters wait" in invoke("list")
    assert "0 dead letters were discarded" in invoke("discard", NAME)


def test_a_replay_of_changes_tells_what_still_waits(settings: Settings) -> None:
    """A heartbeat carries no change: its dead letter goes, and nobody has to deliver it again."""
    lake = Lake(settings.lake_uri)
    planned = EventPlan(batch_id="b", extracted_at=datetime.now(UTC))
    with lake.connect() as con, UnroutedBatch(lake, con, "shop_db", planned) as batch:
        batch.reject([Reject("envelope: unknown to an earlier release", '{"ts_ms": 1}', "slot shop", 1)])
        batch.commit()
    said = " ".join(invoke("replay", "shop_db__unrouted").split())
    assert "dead_letters.shop_db__unrouted: 1 dead letters were tried, 0 are rows now, 0 still wait" in said
    assert "no record to try" not in said
    assert "no dead letters wait" in invoke("list")


def test_what_is_not_there_is_named_with_what_is(lake: Lake) -> None:
    said = refused("show", "shop__nothing")
    assert "there is no table dead_letters.shop__nothing: no record of shop__nothing was ever a dead letter" in said
    assert f"there are dead_letters.{NAME}" in said
    assert "--day 4.1.2011 is no date: write it as 2011-01-04" in refused("list", "--day", "4.1.2011")
