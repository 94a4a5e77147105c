"""A run that is canceled ends as CANCELED within seconds, whatever it waits for; nothing of it stays behind."""

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import dagster as dg
import psycopg
import pytest
from canceled import canceled
from crm_api import Api, Reply
from landing_source import Source
from polled import Accounts
from postgres import execute

from pipeline_assets.components import ChangeStream, DatabaseTable, RestResource
from pipeline_assets.components.automation.cancellation import RETRIES, interruptible
from pipeline_assets.components.resources import LakeResource, lake_resource
from pipeline_assets.contracts import base
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

CANCELED = dg.DagsterRunStatus.CANCELED
LONGEST_SECONDS = 10
TODAY = {"dagster/partition": datetime.now(UTC).date().isoformat()}
_BUSY = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pipe%'"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as found:
        yield found


def job_of(component: dg.Component, name: str) -> dg.JobDefinition:
    definitions = dg.Definitions.merge(
        dg.component_defs(component=component),
        dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor),
    )
    return definitions.get_repository_def().get_job(name)


def rows(settings: Settings, table: str) -> int:
    lake = Lake(settings.lake_uri)
    if not Table(lake, table).exists():
        return 0
    with lake.connect() as con:
        found = con.execute(f"SELECT count(*) FROM {Table(lake, table).scan()}").fetchone()
    return int(found[0]) if found else 0


def attempts(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    starts = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
    return sum(
        entry.dagster_event is not None and entry.dagster_event.event_type in starts
        for entry in instance.all_logs(run.run_id)
    )


def until(holds: Callable[[], bool]) -> None:
    """Waits: a server's process takes a moment to end."""
    gc.collect()  # a generator that an error still refers to holds its session: a run's process would end now
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_large_file_being_read_is_left_and_the_next_run_has_all_of_it(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    source = Source(settings, instance)
    source.land("2011-01-04/large.csv", *(Source.line(number) for number in range(150_000)))
    job = source.repository.get_job("shop__lines__to_gold")

    def is_writing() -> bool:
        return any(Path(settings.lake_uri, "bronze").rglob("*.parquet"))

    run, seconds = canceled(job, instance, {"dagster/partition": "2011-01-04"}, is_writing)
    assert (run.status, attempts(instance, run)) == (CANCELED, 1)
    assert seconds < LONGEST_SECONDS
    assert rows(settings, "bronze.shop__lines") == rows(settings, "dead_letters.shop__lines") == 0
    [request] = source.tick().run_requests or []
    assert source.execute(request).success
    assert source.rows() == 150_000


@pytest.mark.parametrize(
    "query",
    [
        "SELECT sum(sqrt(range)) FROM range(20_000_000_000)",
        "SELECT sum(sqrt(range)) FROM range($n)",  # with parameters DuckDB asks for no signals
    ],
)
def test_a_query_ends_and_its_step_is_not_tried_again(
    settings: Settings, instance: dg.DagsterInstance, query: str
) -> None:
    begun, left = [], []

    @dg.op(retry_policy=RETRIES)
    def compute(lake: LakeResource) -> None:
        try:
            with lake.connect() as con:
                begun.append(1)
                con.execute(query, {"n": 20_000_000_000} if "$" in query else None).fetchall()
        except dg.DagsterExecutionInterruptedError:
            left.append(1)
            raise

    @dg.job(resource_defs={"lake": lake_resource()}, executor_def=dg.in_process_executor)
    def computing() -> None:
        compute()

    run, seconds = canceled(computing, instance, {}, lambda: begun)
    assert (run.status, len(begun), len(left)) == (CANCELED, 1, 1)
    assert seconds < LONGEST_SECONDS


@pytest.mark.parametrize("left", ["inner first", "outer first", "inner by another thread"])
def test_blocks_that_generators_leave_late_neither_lose_a_signal_nor_keep_it(left: str) -> None:
    outer, inner = interruptible(), interruptible()
    told: list[int] = []
    before, was = signal.set_wakeup_fd(-1), signal.signal(signal.SIGINT, lambda number, _: told.append(number))
    try:
        outer.__enter__()
        inner.__enter__()
        first, second = (outer, inner) if left == "outer first" else (inner, outer)
        if left == "inner by another thread":
            thread = Thread(target=inner.__exit__, args=(None, None, None))
            thread.start()
            thread.join()
        else:
            first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert signal.set_wakeup_fd(-1) == -1
        with interruptible() as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted.wait(5)
            interrupted.clear()  # or the block would be left as canceled
        assert told == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, was)
        signal.set_wakeup_fd(before)


def test_what_failed_by_itself_is_still_tried_again(settings: Settings, instance: dg.DagsterInstance) -> None:
    begun = []

    @dg.op(retry_policy=RETRIES._replace(delay=0.01))
    def compute(lake: LakeResource) -> None:
        begun.append(1)
        with lake.connect() as con:
            con.execute("SELECT error('once')" if len(begun) == 1 else "SELECT 1").fetchall()

    @dg.job(resource_defs={"lake": lake_resource()}, executor_def=dg.in_process_executor)
    def computing() -> None:
        compute()

    assert computing.execute_in_process(instance=instance).success
    assert len(begun) == 2


def test_a_poll_that_was_told_to_come_back_later_does_not_wait(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = {**base._registry(), "polled.Accounts": Accounts}
    monkeypatch.setattr(base, "_registry", lambda: registry)
    with Api(fault=lambda number, _: Reply(503, headers={"Retry-After": "300"}) if number == 2 else None) as api:
        job = job_of(
            RestResource.model_validate(
                {
                    "name": "crm__accounts", "base_url": api.url, "path": "accounts", "contract": "polled.Accounts",
                    "owner": "team:crm", "keys": ["account_id"], "records": "data.items",
                    "pagination": {"type": "cursor", "path": "meta.next"},
                }
            ),
            "crm__accounts__to_gold",
        )  # fmt: skip
        run, seconds = canceled(job, instance, TODAY, lambda: len(api.asked) == 2)
        assert (run.status, attempts(instance, run)) == (CANCELED, 1)
        assert seconds < LONGEST_SECONDS
        assert rows(settings, "bronze.crm__accounts") == 0
        assert job.execute_in_process(instance=instance, tags=TODAY).success
    assert rows(settings, "bronze.crm__accounts") == 10


def pull_job(database: str, monkeypatch: pytest.MonkeyPatch, table: str) -> dg.JobDefinition:
    monkeypatch.setenv("TEST_PULL_URL", database)
    declared = {
        "name": "shop__products", "connection_env": "TEST_PULL_URL", "table": table, "mode": "full",
        "contract": "shop_db.Products", "keys": ["stock_code"], "owner": "team:shop-data",
    }  # fmt: skip
    return job_of(DatabaseTable.model_validate(declared), "shop__products__to_gold")


@pytest.mark.parametrize("waiting", ["for the server", "for a lock"])
def test_a_pull_that_waits_is_left_and_so_are_its_sessions(
    settings: Settings, instance: dg.DagsterInstance, database: str, monkeypatch: pytest.MonkeyPatch, waiting: str
) -> None:
    execute(
        database,
        "CREATE TABLE products (stock_code text, description text, unit_price text, updated_at timestamptz)",
        "INSERT INTO products SELECT n, 'x', '1.5', now() FROM generate_series(1, 1000) n",
        "CREATE VIEW slow AS SELECT * FROM products WHERE stock_code <> '500' OR pg_sleep(300) IS NOT NULL",
    )
    job = pull_job(database, monkeypatch, "public.slow" if waiting == "for the server" else "public.products")

    def is_busy() -> bool:
        return execute(database, _BUSY) != [(0,)]

    with ExitStack() as stack:
        if waiting == "for a lock":
            session = stack.enter_context(psycopg.connect(database))
            session.execute("LOCK TABLE products IN ACCESS EXCLUSIVE MODE")
        run, seconds = canceled(job, instance, TODAY, is_busy)
    assert (run.status, attempts(instance, run)) == (CANCELED, 1)
    assert seconds < LONGEST_SECONDS
    until(lambda: not is_busy())
    assert rows(settings, "bronze.shop__products") == 0
    job = pull_job(database, monkeypatch, "public.products")
    assert job.execute_in_process(instance=instance, tags=TODAY).success
    assert rows(settings, "bronze.shop__products") == 1000


def test_a_snapshot_of_a_change_stream_that_waits_is_left(
    settings: Settings, instance: dg.DagsterInstance, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SHOP_DB_URL", database)
    execute(
        database,
        "CREATE TABLE customers (customer_id bigint PRIMARY KEY, name text NOT NULL, email text, phone text, "
        "country text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)",
        "INSERT INTO customers SELECT n, 'x', NULL, NULL, 'EIRE', now(), now() FROM generate_series(1, 100) n",
        "CREATE PUBLICATION shop FOR TABLE customers",
    )
    slot = f"s{database.rpartition('_')[2]}"
    declared = {
        "name": "shop_db", "connection_env": "TEST_SHOP_DB_URL", "publication": "shop", "slot": slot,
        "owner": "team:shop-data",
        "tables": {"public.customers": {"contract": "shop_db.Customers", "keys": ["customer_id"]}},
    }  # fmt: skip
    job = job_of(ChangeStream.model_validate(declared), "shop_db__to_gold")
    with psycopg.connect(database) as session:
        session.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        run, seconds = canceled(job, instance, TODAY, lambda: execute(database, _BUSY) != [(0,)])
    assert (run.status, attempts(instance, run)) == (CANCELED, 1)
    assert seconds < LONGEST_SECONDS
    until(lambda: execute(database, _BUSY) == [(0,)])
    assert job.execute_in_process(instance=instance, tags=TODAY).success
    assert rows(settings, "bronze.shop_db__customers") == 100
