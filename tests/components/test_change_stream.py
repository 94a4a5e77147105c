"""The component against a real PostgreSQL: what it makes, what a tick asks for, how each check fails, no password."""

import json
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from killing import kill_at_commit
from postgres import execute
from pydantic import ValidationError

from pipeline_assets.components import ChangeStream
from pipeline_assets.components.automation import change_sensor
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.lake import Lake, Table

CUSTOMERS = dg.AssetKey(["bronze", "shop_db__customers"])
_REFUSING = "SELECT *, 'cast: name: refused' AS _reason FROM cdc_incoming"
TODAY = datetime.now(UTC).date().isoformat()


def declared(**changes):
    attributes = {
        "name": "shop_db",
        "connection_env": "TEST_SHOP_DB_URL",
        "publication": "shop",
        "slot": "shop",
        "owner": "team:shop-data",
        "tables": {"public.customers": {"contract": "shop_db.Customers", "keys": ["customer_id"]}},
    }
    return ChangeStream.model_validate({**attributes, **changes})


class Stream:
    """A stream of a database of its own, as Dagster definitions."""

    def __init__(self, url, settings, instance, monkeypatch):
        monkeypatch.setenv("TEST_SHOP_DB_URL", url)
        self.url, self.instance, self.lake = url, instance, Lake(settings.lake_uri)
        component = declared(slot=f"s{url.rpartition('_')[2]}")
        self.slot = component.slot
        definitions = dg.Definitions.merge(
            dg.component_defs(component=component), dg.Definitions(resources={"lake": lake_resource()})
        )
        self.repository = definitions.get_repository_def()
        self.sql(
            "CREATE TABLE customers (customer_id bigint PRIMARY KEY, name text NOT NULL, email text, phone text, "
            "country text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)",
            "CREATE PUBLICATION shop FOR TABLE customers",
        )

    def sql(self, *statements):
        return execute(self.url, *statements)

    def insert(self, number, name="Ann"):
        self.sql(f"INSERT INTO customers VALUES ({number}, '{name}', NULL, NULL, 'EIRE', now(), now())")

    def tick(self):
        sensor = self.repository.get_sensor_def("shop_db__changes")
        with dg.build_sensor_context(
            instance=self.instance, repository_def=self.repository, sensor_name=sensor.name,
            resources={"lake": lake_resource()},
        ) as context:  # fmt: skip
            return sensor.evaluate_tick(context)

    def run(self, job="to_gold", tags=None, run_config=None):
        return self.repository.get_job(f"shop_db__{job}").execute_in_process(
            instance=self.instance,
            tags={"dagster/partition": TODAY, **(tags or {})},
            raise_on_error=False,
            run_config=run_config,
        )

    def dead_letters(self, name):
        """Each with its number, and whether it was discarded."""
        number = "coalesce(raw->>'$.value.after.customer_id', raw->>'$.value.after.id')"
        with self.lake.connect() as con:
            scan = Table(self.lake, f"dead_letters.shop_db__{name}").scan()
            return con.execute(f"SELECT {number}, discarded_at IS NOT NULL FROM {scan} ORDER BY ALL").fetchall()

    def rows(self):
        with self.lake.connect() as con:
            return con.execute(
                f"SELECT op FROM {Table(self.lake, 'bronze.shop_db__customers').scan()} ORDER BY commit_lsn, tx_seq"
            ).fetchall()


@pytest.fixture
def stream(database, settings, instance, monkeypatch):
    return Stream(database, settings, instance, monkeypatch)


def checks(result):
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def problem(result, name):
    found = next(check for check in result.get_asset_check_evaluations() if check.check_name == name)
    return found.metadata["problem"].value


def test_a_tick_asks_for_the_first_snapshot_then_for_changes_then_for_nothing(stream):
    stream.insert(1)
    [request] = stream.tick().run_requests
    assert request.partition_key == TODAY
    result = stream.run(tags=request.tags)
    assert result.success
    assert set(checks(result).values()) == {True}
    assert stream.tick().skip_message.startswith("nothing new (0 events, lag ")
    stream.insert(2)
    stream.insert(3)
    [request] = stream.tick().run_requests
    assert request.tags["pipeline_assets/events"] == "2"
    assert int(request.tags["pipeline_assets/lag_bytes"]) > 0
    stream.run(tags=request.tags)
    assert stream.rows() == [("r",), ("c",), ("c",)]
    assert "nothing new" in stream.tick().skip_message


def test_a_quiet_stream_has_a_run_before_its_tables_would_be_called_silent(stream, monkeypatch):
    stream.insert(1)
    stream.run()
    assert "nothing new" in stream.tick().skip_message
    monkeypatch.setattr(change_sensor, "EVERY", timedelta(0))  # that time has passed
    [request] = stream.tick().run_requests
    materialized = stream.instance.get_latest_materialization_event(CUSTOMERS).timestamp
    assert stream.run(tags=request.tags).success
    assert stream.instance.get_latest_materialization_event(CUSTOMERS).timestamp > materialized


def test_a_failed_run_does_not_put_off_the_next_one_of_a_quiet_stream(stream, monkeypatch):
    stream.insert(1)
    stream.run()
    monkeypatch.setattr(change_sensor, "EVERY", timedelta(0))
    [request] = stream.tick().run_requests
    monkeypatch.setattr(Drain, "run", lambda *_, **__: 1 / 0)
    assert not stream.run(tags=request.tags).success
    event = stream.instance.get_latest_materialization_event(CUSTOMERS)
    # The time has passed since the materialization, but not since the run.
    monkeypatch.setattr(change_sensor, "EVERY", timedelta(seconds=time.time() - event.timestamp))
    monkeypatch.setattr(change_sensor, "_FIRST_RETRY_SECONDS", 0)
    assert stream.tick().run_requests


def test_without_a_url_the_stream_rests(stream, monkeypatch):
    monkeypatch.delenv("TEST_SHOP_DB_URL")
    assert stream.tick().skip_message == "TEST_SHOP_DB_URL is not set: no database to read from"
    result = stream.run()
    assert result.success  # other sources' runs go on
    found = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert {(check.check_name, check.severity.value) for check in found} == {
        ("slot", "WARN"),
        ("publication", "WARN"),
        ("replica_identity", "WARN"),
    }


def test_counts_go_to_the_partitions_of_the_commit_dates(stream):
    stream.insert(1)
    result = stream.run()
    [found] = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == CUSTOMERS
    ]
    assert found.partition == TODAY
    facts = {key: value.value for key, value in found.metadata.items()}
    assert (facts["rows"], facts["dead_letters"], facts["snapshots"]) == (1, 0, "shop_db__customers")


def test_a_lost_slot_fails_the_check_which_says_what_to_run_and_that_job_mends_it(stream):
    stream.insert(1)
    stream.run()
    stream.sql(f"SELECT pg_drop_replication_slot('{stream.slot}')", "DELETE FROM customers")
    stream.insert(2)
    [request] = stream.tick().run_requests
    result = stream.run(tags=request.tags)
    assert not result.success
    assert not checks(result)["slot"]
    assert "run the job shop_db__resnapshot" in problem(result, "slot")
    assert stream.rows() == [("r",)]
    assert stream.run("resnapshot").success
    assert stream.rows() == [("r",), ("t",), ("r",)]


def test_each_check_names_its_problem(stream):
    stream.insert(1)
    stream.run()
    stream.sql("ALTER PUBLICATION shop SET (publish = 'insert')")
    assert "leaves out" in problem(stream.run(), "publication")
    stream.sql("ALTER PUBLICATION shop SET (publish = 'insert, update, delete, truncate')")
    stream.sql("ALTER TABLE customers REPLICA IDENTITY NOTHING")
    assert "REPLICA IDENTITY FULL" in problem(stream.run(), "replica_identity")
    stream.sql("ALTER TABLE customers REPLICA IDENTITY DEFAULT")
    stream.sql("INSERT INTO customers VALUES (2, 'x', NULL, NULL, 'EIRE', '-infinity', now())")
    result = stream.run()
    assert result.success  # the check of dead letters reports, and blocks nothing
    assert not checks(result)["dead_letters"]
    found = next(check for check in result.get_asset_check_evaluations() if check.check_name == "dead_letters")
    assert "cast: created_at: '...' is not TIMESTAMP" in str(found.metadata["reasons"].value)
    stream.sql("DROP PUBLICATION shop")
    assert "there is no publication shop" in problem(stream.run(), "slot")


def test_dead_letters_are_replayed_by_a_job(stream, monkeypatch):
    stream.run()
    stream.insert(1)
    with monkeypatch.context() as yesterday:
        yesterday.setattr(
            "pipeline_assets.ingest.cdc.table.change_table.validate_sql", lambda table, relation: _REFUSING
        )
        assert not checks(stream.run())["dead_letters"]
    result = stream.run("replay")
    assert checks(result)["dead_letters"]
    assert stream.rows() == [("c",)]


def test_dead_letters_are_discarded_by_a_job_and_those_that_it_brings_wait(stream, monkeypatch):
    stream.run()
    stream.sql(
        "CREATE TABLE extra (id int PRIMARY KEY)",
        "ALTER PUBLICATION shop ADD TABLE extra",
        "INSERT INTO extra VALUES (1)",
        "INSERT INTO customers VALUES (1, 'x', NULL, NULL, 'EIRE', '-infinity', now())",
    )
    stream.insert(2)
    assert not checks(stream.run())["dead_letters"]
    stream.sql("INSERT INTO customers VALUES (3, 'x', NULL, NULL, 'EIRE', '-infinity', now())")
    with monkeypatch.context() as patched:
        kill_at_commit(patched, 2)  # between the two tables
        assert not stream.run("discard_dead_letters").success
    assert [stream.dead_letters(name) for name in ("customers", "unrouted")] == [[("1", True)], [("1", False)]]
    result = stream.run("discard_dead_letters")
    assert result.success
    assert not checks(result)["dead_letters"]
    assert stream.dead_letters("customers") == [("1", True), ("3", False)]
    assert stream.dead_letters("unrouted") == [("1", True)]
    result = stream.run("discard_dead_letters")
    assert checks(result)["dead_letters"]
    assert checks(result)["record_counts"]
    assert stream.dead_letters("customers") == [("1", True), ("3", True)]
    stream.run("replay")
    assert stream.rows() == [("c",)]


def test_a_failed_run_is_not_asked_for_again_at_once(stream):
    stream.insert(1)
    stream.sql("DROP PUBLICATION shop")
    [request] = stream.tick().run_requests
    assert not stream.run(tags=request.tags).success
    assert "runs failed" in stream.tick().skip_message


def test_no_password_is_told_anywhere(stream, monkeypatch, capfd):
    secret = "s3cr3t-hunter2"
    monkeypatch.setenv("TEST_SHOP_DB_URL", f"postgresql://reader:{secret}@127.0.0.1:1/shop")
    assert stream.tick().run_requests  # its run fails, and people hear of it
    result = stream.run(tags={"pipeline_assets/source": "other"})
    assert not result.success
    told = [event.to_json() if hasattr(event, "to_json") else str(event) for event in result.all_events]
    run = stream.instance.get_run_by_id(result.run_id)
    told += [json.dumps(run.run_config), json.dumps(dict(run.tags))]
    told += [str(record) for record in stream.instance.all_logs(result.run_id)]
    assert secret not in "".join([*told, *capfd.readouterr()])
    assert any("127.0.0.1" in text for text in told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Shop"}, "name"),
        ({"connection_env": "postgresql://u:p@h/d"}, "connection_env"),
        ({"tables": {"a.customers": {"contract": "shop_db.Nobody", "keys": ["id"]}}}, "no contract"),
        ({"tables": {"a.customers": {"contract": "shop_db.Customers", "keys": ["id"]}}}, "keys id are not columns"),
        ({"tables": {"a.unrouted": {"contract": "shop_db.Customers", "keys": ["customer_id"]}}}, "is taken"),
    ],
)
def test_a_wrong_declaration_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        declared(**changes)
