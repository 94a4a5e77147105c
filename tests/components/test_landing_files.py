"""The component: a declaration becomes assets, checks and a sensor; each check fails on what it is there for."""

import os
import resource
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from deltalake import Field, Schema
from deltalake.schema import PrimitiveType
from landing_source import BRONZE, LETTERS, Source
from pydantic import ValidationError

from pipeline_assets.components import LandingFiles
from pipeline_assets.components.assets import bronze as bronze_assets
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.lake import audited_in, held_days
from pipeline_assets.settings import Settings

DAY = date(2011, 1, 4)


def run(source: Source, first: str = "2011-01-04", last: str = "2011-01-04") -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    if first == last:
        tags = {"dagster/partition": first}
    return source.execute(dg.RunRequest(tags=tags))


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def metadata(result: dg.ExecuteInProcessResult, check: str) -> dict[str, dg.MetadataValue]:  # type: ignore[type-arg]
    return next(dict(c.metadata) for c in result.get_asset_check_evaluations() if c.check_name == check)


def bronze_facts(result: dg.ExecuteInProcessResult) -> dict[str | None, dict[str, object]]:
    return {
        event.materialization.partition: {key: value.value for key, value in event.materialization.metadata.items()}
        for event in (e.step_materialization_data for e in result.get_asset_materialization_events())
        if event.materialization.asset_key == BRONZE
    }


def test_good_files_pass_all_checks_and_leave_their_counts(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1), source.line(2))
    source.land("2011-01-05/a.csv", source.line(3))
    result = run(source, "2011-01-04", "2011-01-06")
    assert result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": True,
        "withheld": True,
        "dead_letters": True,
        "files_read": True,
    }
    found = bronze_facts(result)
    assert set(found) == {"2011-01-04", "2011-01-05", "2011-01-06"}
    read = {day: facts for day, facts in found.items() if "rows" in facts}  # a day without files says nothing of rows
    assert {day: (facts["records_in"], facts["rows"], facts["dead_letters"]) for day, facts in read.items()} == {
        "2011-01-04": (2, 2, 0),
        "2011-01-05": (1, 1, 0),
    }


def test_the_materialization_tells_which_columns_were_widened(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    assert "columns_widened" not in bronze_facts(run(source))["2011-01-04"]
    with source.lake.connect() as con:
        source.bronze.retype(con, {"quantity": "quantity::TINYINT", "unit_price": "unit_price::DECIMAL(8, 3)"})
    source.land("2011-01-04/b.csv", source.line(2))
    found = bronze_facts(run(source))["2011-01-04"]
    assert found["columns_widened"] == "quantity: TINYINT -> BIGINT, unit_price: DECIMAL(8,3) -> DECIMAL(12,3)"
    source.land("2011-01-04/c.csv", source.line(3))
    assert "columns_widened" not in bronze_facts(run(source))["2011-01-04"]


def test_a_range_is_one_run_of_one_step(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    result = run(source, "2011-01-01", "2011-01-31")
    assert len(result.get_step_success_events()) == 3  # ingest and two of checks
    assert len(source.bronze.open().history()) == 3  # create, the rows, their audit


def test_too_many_dead_letters_fail_the_budget_and_withhold_the_day(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1), source.line(2, quantity="x"), source.line(3))
    source.land("2011-01-05/a.csv", source.line(4))
    result = run(source, "2011-01-04", "2011-01-05")
    assert not result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": False,
        "withheld": False,
        "dead_letters": True,
        "files_read": True,
    }
    cases = metadata(result, "failure_budget")["failing_cases"]
    assert [record.data for record in cases.records] == [  # type: ignore[attr-defined]
        {"day": "2011-01-04", "records_in": "3", "dead_letters": "1"}
    ]
    assert held_days(source.bronze) == {DAY}
    source.land("2011-01-04/a.csv", source.line(1), source.line(2), age=60)
    assert run(source).success
    assert held_days(source.bronze) == frozenset()


def test_a_withheld_day_is_red_through_good_days_of_others_until_it_is_mended(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1), source.line(2, quantity="x"))
    assert not run(source).success
    source.land("2011-01-05/a.csv", source.line(4))
    good = run(source, "2011-01-05", "2011-01-05")
    assert good.success
    passed = {"contract": True, "record_counts": True, "failure_budget": True, "dead_letters": True, "files_read": True}
    assert checks(good) == {**passed, "withheld": False}
    assert metadata(good, "withheld")["withheld_days"].value == "2011-01-04"
    source.land("2011-01-04/a.csv", source.line(1), age=60)
    assert checks(run(source)) == {**passed, "withheld": True}


def test_a_withheld_day_that_is_delivered_again_without_records_is_released(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1), source.line(2, quantity="x"))
    assert not run(source).success
    source.land("2011-01-04/a.csv", age=60)
    assert checks(run(source))["withheld"]
    assert held_days(source.bronze) == frozenset()


def test_a_snapshot_without_rows_fails_its_size_and_withholds_the_day(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    source = Source(settings, instance, delivery="snapshot")
    source.land("2011-01-04/a.csv", source.line(1), source.line(2))
    source.land("2011-01-05/a.csv", source.line(1), source.line(2))
    result = run(source, "2011-01-04", "2011-01-05")
    assert set(checks(result).values()) == {True}
    assert source.rows() == 4
    source.land("2011-01-06/a.csv")
    assert {name for name, passed in checks(run(source, "2011-01-06", "2011-01-06")).items() if not passed} == {
        "snapshot_size",
        "withheld",
    }
    assert held_days(source.bronze) == {date(2011, 1, 6)}


def test_a_value_against_the_contract_fails_the_contract_check(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1), source.line(2).replace("536002", "banana"))
    source.land("2011-01-05/a.csv", source.line(3))
    result = run(source, "2011-01-04", "2011-01-05")
    assert checks(result) == {
        "contract": False,
        "record_counts": True,
        "failure_budget": True,
        "withheld": False,
        "dead_letters": True,
        "files_read": True,
    }
    facts = metadata(result, "contract")
    assert (facts["rows_checked"].value, facts["failing_rows"].value) == (3, 1)
    (case,) = facts["failing_cases"].records  # type: ignore[attr-defined]
    assert (case.data["column"], case.data["value"]) == ("invoice_no", "banana")
    assert held_days(source.bronze) == {DAY}


def test_a_lost_row_fails_the_reconciliation(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1), source.line(2))
    assert run(source).success
    with source.lake.connect() as con:
        source.bronze.replace(con, f"SELECT * FROM {source.bronze.scan()} WHERE FALSE", where="invoice_no = '536002'")
    result = run(source)
    assert checks(result) == {
        "contract": True,
        "record_counts": False,
        "failure_budget": True,
        "withheld": False,
        "dead_letters": True,
        "files_read": True,
    }
    (case,) = metadata(result, "record_counts")["failing_cases"].records  # type: ignore[attr-defined]
    assert (case.data["records_in"], case.data["rows"]) == ("2", "1")


def test_a_type_that_people_have_to_change_is_told_at_once(source: Source) -> None:
    source.bronze.create(Schema([Field("quantity", PrimitiveType("string"))]))
    source.land("2011-01-04/a.csv", source.line(1))
    result = run(source)
    assert not result.success
    assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    (failure,) = result.get_step_failure_events()
    assert "pipeline tables retype" in str(failure.step_failure_data.user_failure_data)


def test_a_failed_blocking_check_stops_what_lies_downstream(source: Source) -> None:
    @dg.asset(deps=[BRONZE], partitions_def=source.component._specs()[0].partitions_def, name="after")
    def after() -> None:
        """Must not run."""

    defs = dg.Definitions.merge(source.defs, dg.Definitions(assets=[after]))
    source.land("2011-01-04/a.csv", source.line(1, quantity="x"))
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=source.instance, partition_key="2011-01-04", raise_on_error=False)
    assert not result.success
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {BRONZE, LETTERS}


def test_the_ui_gets_columns_owner_groups_and_freshness(source: Source) -> None:
    bronze, letters = (source.defs.resolve_asset_graph().get(key) for key in (BRONZE, LETTERS))
    assert (bronze.group_name, letters.group_name) == ("bronze", "dead_letters")
    assert list(bronze.owners) == ["team:shop"]
    columns = bronze.metadata["dagster/column_schema"].columns
    assert {column.name: column.type for column in columns}["unit_price"] == "DECIMAL(12,3)"
    assert all(column.description for column in columns)
    assert bronze.freshness_policy is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "lines/*.csv"}, "exactly one {date}"),
        ({"path": "/abs/{date}.csv"}, "relative to the landing root"),
        ({"keys": ["nope"]}, "keys: nope are no columns of the contract shop.InvoiceLines"),
        ({"contract": "shop.Nothing"}, "no contract 'shop.Nothing'"),
        ({"name": "Lines"}, "match pattern"),
        ({"failure_budget": 2}, "less than or equal to 1"),
        ({"format": "excel"}, "'csv', 'jsonl', 'json', 'parquet' or 'avro'"),
        ({"frequency": "often"}, "'hourly', 'daily' or 'weekly'"),
        ({"owner": "nobody"}, "match pattern"),
        ({"pages": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_declaration_is_explained(
    settings: Settings, instance: dg.DagsterInstance, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message.replace("{", r"\{").replace("}", r"\}")):
        Source(settings, instance, **change)


def test_a_yaml_declaration_is_all_it_takes(settings: Settings) -> None:
    attributes = {
        "name": "crm__accounts", "path": "crm/{date:%Y%m%d}.jsonl", "contract": "shop.InvoiceLines",
        "owner": "crm@example.com", "keys": ["invoice_no"], "volume_mb_per_day": 2,
    }  # fmt: skip
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=LandingFiles,
            defs_yaml_contents={"type": "pipeline_assets.components.LandingFiles", "attributes": attributes},
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, defs):
            assert isinstance(component, LandingFiles)
            defs = dg.Definitions.merge(defs, dg.Definitions(resources={"lake": lake_resource()}))
            keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
            assert keys == {"bronze/crm__accounts", "dead_letters/crm__accounts"}
    assert Path(settings.landing_uri).is_dir()


def test_a_file_that_cannot_be_read_makes_the_run_red_and_the_others_are_published(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bronze_assets, "RETRIES", dg.RetryPolicy(max_retries=0))
    source.land("2011-01-04/a.csv", source.line(1))
    source.land("2011-01-05/big.csv", *(source.line(n, stock_code=os.urandom(40).hex()) for n in range(5_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # what a disk that is full does
    try:
        result = run(source, "2011-01-04", "2011-01-05")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": True,
        "withheld": True,
        "dead_letters": True,
        "files_read": False,
    }
    (row,) = metadata(result, "files_read")["files_left"].records  # type: ignore[attr-defined]
    assert row.data["file"] == "lines/2011-01-05/big.csv"
    assert "free space" in row.data["reason"]
    assert audited_in(source.bronze.open()) is not None  # what lies downstream may read the other day
    assert source.rows() == 1
    result = run(source, "2011-01-04", "2011-01-05")
    assert result.success
    assert checks(result)["files_read"]
    assert source.rows() == 5_001
