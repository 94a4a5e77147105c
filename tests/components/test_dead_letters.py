"""Dead letters in Dagster, for each kind of source: what is shown, replay after a mended contract, discarding."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import duckdb
import pandera.polars as pa
import polars as pl
import pytest
from change_records import Shop, product, unlisted
from crm_api import Api, account
from killing import Killed, kill_at_commit
from waiting import ANY_PRICE

from pipeline_assets.components import ChangeFiles, DatabaseTable, LandingFiles, RestResource
from pipeline_assets.components.assets.dead_letters import DISCARD_TAG, DeadLetters
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.contracts import base
from pipeline_assets.ingest.dead_letters.select import Selection, groups
from pipeline_assets.ingest.rest import session
from pipeline_assets.lake import Lake, Table, held_days
from pipeline_assets.lake.dead_letters import dead_letter_table
from pipeline_assets.settings import Settings, load_settings

DAY, TODAY = date(2026, 1, 2), datetime.now(UTC).date()
NAME = "t__records"


class Strict(pa.DataFrameModel):
    """Each record needs a name."""

    account_id: int = pa.Field()
    name: str = pa.Field()
    updated_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field()

    class Config:
        """Not of the registry."""

        name = "test.records"


class Mended(Strict):
    """It does not."""

    name: str = pa.Field(nullable=True)


class World:
    """A source of one kind: three records, of which 2 has no name and 3 no number."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, build: Callable[[], dg.Component]) -> None:
        self.lake, self.instance, self.build = Lake(settings.lake_uri), instance, build
        self.bronze, self.letters = Table(self.lake, f"bronze.{NAME}"), dead_letter_table(self.lake, f"bronze.{NAME}")

    def run(self, job: str = "to_gold", day: date = DAY) -> dg.ExecuteInProcessResult:
        defs = dg.Definitions.merge(
            dg.component_defs(component=self.build()),
            dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor),
        )
        return (
            defs.get_repository_def()
            .get_job(f"{NAME}__{job}")
            .execute_in_process(instance=self.instance, partition_key=day.isoformat(), raise_on_error=False)
        )

    def query(self, relation: str, columns: str = "account_id") -> list[Any]:
        with self.lake.connect() as con:
            found = con.execute(f"SELECT {columns} FROM {relation} ORDER BY ALL").fetchall()
        return [row[0] if len(row) == 1 else row for row in found]


@pytest.fixture(params=["files", "pull", "poll"])
def world(
    request: pytest.FixtureRequest, settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[World]:  # fmt: skip
    _declare(monkeypatch, Strict)
    shared = {
        "name": NAME,
        "contract": "test.Records",
        "owner": "team:t",
        "keys": ["account_id"],
        "failure_budget": 0.5,
    }
    if request.param == "files":
        _land(
            settings, "2026-01-02/a.csv", "account_id,name,updated_at\n1,a,2026-01-01\n2,,2026-01-01\nx,c,2026-01-01\n"
        )
        yield World(settings, instance, lambda: LandingFiles(path="t/{date}/*", volume_mb_per_day=1, **shared))
    elif request.param == "pull":
        with duckdb.connect(str(tmp_path / "source.duckdb")) as con:
            values = "('1', 'a', TIMESTAMPTZ '2026-01-01'), ('2', NULL, '2026-01-01'), ('x', 'c', '2026-01-01')"
            columns = "t(account_id, name, updated_at)"
            con.execute(f"CREATE TABLE records AS SELECT * FROM (VALUES {values}) AS {columns}")
        monkeypatch.setenv("TEST_RECORDS_URL", f"duckdb:///{tmp_path / 'source.duckdb'}")
        more = {"connection_env": "TEST_RECORDS_URL", "table": "main.records", "mode": "incremental"}
        yield World(settings, instance, lambda: DatabaseTable(watermark="updated_at", **more, **shared))
    else:
        monkeypatch.setattr(session, "sleep", lambda seconds: None)
        records = [account(1), account(2, name=None), account(3).replace('"account_id": 3', '"account_id": "x"')]
        with Api(paging="single", records=records) as api:
            more = {"base_url": api.url, "path": "accounts", "records": "data.items"}
            incremental = {"param": "updated_since", "field": "updated_at"}
            yield World(settings, instance, lambda: RestResource(**more, **shared, incremental=incremental))


def _declare(monkeypatch: pytest.MonkeyPatch, model: base.Model) -> None:
    registry = {**base._registry(), "test.Records": model}
    monkeypatch.setattr(base, "_registry", lambda: registry)


def _land(settings: Settings, name: str, content: str) -> None:
    path = Path(settings.landing_uri) / "t" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def check(result: dg.ExecuteInProcessResult, name: str) -> Any:
    return next(found for found in result.get_asset_check_evaluations() if found.check_name == name)


def metadata(result: dg.ExecuteInProcessResult, layer: str, name: str = NAME) -> dict[str, Any]:
    found = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey([layer, name])
    ]
    facts = {key: value for each in found for key, value in each.metadata.items()}
    return {
        key: [row.data for row in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
        for key, value in facts.items()
    }


def test_after_a_mended_contract_the_check_proposes_a_replay_and_the_job_carries_it_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.run()
    assert (first.success, check(first, "failure_budget").passed) == (False, False)
    assert check(first, "dead_letters").passed, "they do not fit the contract of now, so there is nothing to replay"
    shown = metadata(first, "dead_letters")
    reasons = [(row["reason"], row["dead_letters"]) for row in shown["reasons"]]
    assert (shown["waiting"], reasons) == (
        2, [("cast: account_id: '...' is not BIGINT", "1"), ("required: name is missing", "1")],
    )  # fmt: skip
    assert all("2026-01-01" in row["raw"] for row in shown["reasons"])
    _declare(monkeypatch, Mended)
    second = world.run()
    found = check(second, "dead_letters")
    assert (found.passed, found.severity, found.metadata["would_fit"].value) == (False, dg.AssetCheckSeverity.WARN, 1)
    assert found.metadata["remedy"].value == f"1 dead letters would fit now: run the job {NAME}__replay"
    third = world.run("replay", TODAY)
    assert third.success
    # A pull or poll that looks back has read the record once more meanwhile: a later version of the same.
    assert (metadata(third, "bronze")["replay_rows"], set(world.query(world.bronze.scan()))) == (1, {1, 2})
    assert check(third, "dead_letters").passed
    assert (held_days(world.bronze), world.query(world.letters.scan(), "raw NOT LIKE '%x%'")) == (frozenset(), [False])
    with_dead_letters = world.query(world.letters.scan(), "DISTINCT _batch_id")
    assert world.query(
        f"{world.bronze.scan()} WHERE _batch_id = '{with_dead_letters[0]}'", "count(DISTINCT account_id)"
    ) == [2]


def test_discarding_ends_the_wait_and_the_day_is_published(world: World) -> None:
    assert not world.run().success
    assert len(held_days(world.bronze)) == 1
    done = world.run("discard_dead_letters", TODAY)
    assert done.success
    assert (held_days(world.bronze), metadata(done, "dead_letters")["waiting"]) == (frozenset(), 0)
    assert world.query(world.letters.scan(), "discarded_at IS NOT NULL") == [True, True]
    assert all(found.passed for found in done.get_asset_check_evaluations())


def test_a_second_attempt_discards_nothing_that_the_first_one_brought(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DeadLetters.replay_if_asked

    def failing_once(*_: object) -> dict[str, Any]:
        monkeypatch.setattr(DeadLetters, "replay_if_asked", real)
        raise OSError("the storage was away")

    monkeypatch.setattr(DeadLetters, "replay_if_asked", failing_once)
    done = world.run("discard_dead_letters")
    assert [event.event_type_value for event in done.all_events].count("STEP_RESTARTED") == 1
    assert world.query(world.letters.scan(), "discarded_at IS NULL") == [True, True]


def test_the_graph_shows_columns_of_dead_letters_below_their_table(world: World) -> None:
    resources = dg.Definitions(resources={"lake": lake_resource()})
    defs = dg.Definitions.merge(dg.component_defs(component=world.build()), resources)
    node = defs.resolve_asset_graph().get(dg.AssetKey(["dead_letters", NAME]))
    assert node.parent_keys == {dg.AssetKey(["bronze", NAME])}
    assert [column.name for column in node.metadata["dagster/column_schema"].columns] == [
        "_partition_date", "_batch_id", "_extracted_at", "_source", "reason", "raw", "records", "raw_types",
        "discarded_at",
    ]  # fmt: skip


def test_dead_letters_of_changes_are_shown_and_discarded(settings: Settings, instance: dg.DagsterInstance) -> None:
    load_settings.cache_clear()
    tables = {"public.products": {"contract": "shop_db.Products", "keys": ["stock_code"]}}
    world = World(settings, instance, lambda: ChangeFiles.model_validate(
        {"name": "t", "path": "t/{date}/*", "format": "debezium", "tables": tables, "owner": "team:t"}
    ))  # fmt: skip
    records = [product("A", 8), product("B", 16, price="cheap"), unlisted(24)]
    _land(settings, "2026-01-02/a.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
    defs = dg.Definitions.merge(
        dg.component_defs(component=world.build()),
        dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor),
    )

    def run(job: str) -> dg.ExecuteInProcessResult:
        found = defs.get_repository_def().get_job(f"t__{job}")
        return found.execute_in_process(instance=instance, partition_key=DAY.isoformat(), raise_on_error=False)

    first = run("to_gold")
    assert not check(first, "dead_letters").passed
    (row,) = metadata(first, "dead_letters", "t__products")["reasons"]
    assert (row["reason"], row["file"]) == (
        "cast: unit_price: '...' is not DECIMAL(12,3)",
        "t/2026-01-02/a.jsonl",
    )
    assert metadata(first, "dead_letters", "t__unrouted")["waiting"] == 1
    letters = dead_letter_table(world.lake, "bronze.t__products")
    with world.lake.connect() as con:
        assert [group.dead_letters for group in groups(con, letters, Selection(day=DAY))] == [1]
    again = run("replay")
    assert not check(again, "dead_letters").passed
    done = run("discard_dead_letters")
    assert {
        name: check(done, name).passed for name in ("dead_letters", "record_counts", "records", "unrouted")
    } == dict.fromkeys(("dead_letters", "record_counts", "records", "unrouted"), True)
    assert metadata(done, "dead_letters", "t__products")["waiting"] == 0


def test_a_discard_of_changes_first_finishes_a_replay_that_was_killed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(settings.lake_uri).parent
    shop = Shop(folder)
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), "{")
    shop.ingest()
    shop = Shop(folder, ANY_PRICE)
    with monkeypatch.context() as patched:
        kill_at_commit(patched, 1)  # the event is in the table, and its dead letter waits
        with pytest.raises(Killed):
            shop.replay()
    DeadLetters.of_changes("crm", shop.source.tables).discard_if_asked({DISCARD_TAG: "yes"}, lake_resource(), "r")
    assert (len(shop.rows()), shop.letters("crm__products")) == (1, [])
    assert shop.letters(columns="raw, discarded_at IS NOT NULL") == [("{", True)]
