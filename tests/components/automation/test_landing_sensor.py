"""Ticks against a real instance and a real lake: what is asked for, and what is not asked for twice."""

import os
import shutil

import dagster as dg
import pytest
from landing_source import Source, days_of

from pipeline_assets.components.automation import landing_sensor


def skip_reason(result: dg.SensorResult) -> str:
    assert not result.run_requests
    return str(result.skip_message)


def test_no_folder_and_no_files_are_said_to_be_so(source: Source) -> None:
    assert "nothing new" in skip_reason(source.tick())


def test_days_are_asked_for_in_one_run_per_range(source: Source) -> None:
    for name in ("2011-01-04/a.csv", "2011-01-04/b.csv", "2011-01-05/a.csv", "2011-01-10/a.csv"):
        source.land(name, source.line(hash(name) % 1000))
    (request,) = source.tick().run_requests
    assert days_of(request) == ("2011-01-04", "2011-01-10")
    assert source.execute(request).success
    assert "nothing new" in skip_reason(source.tick())


def test_only_what_is_new_is_asked_for(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    source.land("2011-01-05/a.csv", source.line(2))
    source.land("2011-01-06/a.csv", source.line(3))
    first = source.tick()
    source.execute(first.run_requests[0])
    source.land("2011-01-04/late.csv", source.line(4))
    source.land("2011-01-06/a.csv", source.line(5), age=60)
    found = [days_of(request) for request in source.tick(first.cursor).run_requests]
    assert found == [("2011-01-04", "2011-01-04"), ("2011-01-06", "2011-01-06")]


def test_a_lost_cursor_asks_for_nothing_again(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    source.execute(source.tick().run_requests[0])
    for cursor in (None, "garbage", "{}"):
        assert "nothing new" in skip_reason(source.tick(cursor))


def test_the_same_content_is_not_asked_for_while_a_run_is_under_way(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    (request,) = source.tick().run_requests
    run = source.instance.create_run_for_job(
        source.repository.get_job(source.repository.get_sensor_def("shop__lines__landing").job_name),
        tags=dict(request.tags), status=dg.DagsterRunStatus.STARTED,
    )  # fmt: skip
    assert "1 days under way" in skip_reason(source.tick())
    source.instance.report_run_canceled(run)
    assert "cancelled by hand" in skip_reason(source.tick())


def test_run_keys_and_tags_name_the_content(source: Source) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    (once,) = source.tick().run_requests
    (again,) = source.tick().run_requests
    assert once.run_key == again.run_key
    source.land("2011-01-04/a.csv", source.line(2), age=60)
    (other,) = source.tick().run_requests
    assert other.run_key != once.run_key


def test_a_failed_run_is_asked_for_again_a_few_times_and_later(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.land("2011-01-04/a.csv", source.line(1))
    monkeypatch.setenv("PIPELINE_DUCKDB_MEMORY_LIMIT", "1GB")
    job = source.repository.get_job(source.repository.get_sensor_def("shop__lines__landing").job_name)
    keys = []
    for attempt in range(1, 4):
        (request,) = source.tick().run_requests
        keys.append(request.run_key)
        run = source.instance.create_run_for_job(job, tags=dict(request.tags))
        source.instance.report_run_failed(run)
        if attempt < 3:
            monkeypatch.setattr(landing_sensor, "_FIRST_RETRY_SECONDS", 3600)
            assert f"attempt {attempt} failed" in skip_reason(source.tick())
            monkeypatch.setattr(landing_sensor, "_FIRST_RETRY_SECONDS", 0)
    assert len(set(keys)) == 3
    assert "given up after 3 failed runs" in skip_reason(source.tick())
    source.land("2011-01-04/b.csv", source.line(2))  # other content is another batch
    assert len(source.tick().run_requests) == 1


def test_a_run_that_failed_after_its_commit_is_asked_for_again(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are in bronze, but silver and gold may not have followed."""
    monkeypatch.setattr(landing_sensor, "_FIRST_RETRY_SECONDS", 0)
    source.land("2011-01-04/a.csv", source.line(1))
    first = source.tick()
    source.execute(first.run_requests[0])
    job = source.repository.get_job(source.repository.get_sensor_def("shop__lines__landing").job_name)
    run = source.instance.create_run_for_job(job, tags=dict(first.run_requests[0].tags))
    source.instance.report_run_failed(run)
    (request,) = source.tick(first.cursor).run_requests
    assert source.execute(request).success
    assert "nothing new" in skip_reason(source.tick(first.cursor))
    assert source.rows() == 1


def test_a_bad_day_is_not_tried_again_and_does_not_hold_up_the_others(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_sensor, "_FIRST_RETRY_SECONDS", 0)
    source.land("2011-01-04/a.csv", source.line(1), source.line(2, quantity="x"))
    source.land("2011-01-05/a.csv", source.line(3))
    (both,) = source.tick().run_requests
    assert not source.execute(both).success
    (good,) = source.tick().run_requests
    assert days_of(good) == ("2011-01-05", "2011-01-05")
    assert source.execute(good).success
    assert "nothing new" in skip_reason(source.tick())
    source.land("2011-01-06/a.csv", source.line(4))
    (next_day,) = source.tick().run_requests
    assert days_of(next_day) == ("2011-01-06", "2011-01-06")
    assert source.execute(next_day).success


def test_a_folder_that_is_back_in_an_older_state_is_asked_for_at_once(source: Source) -> None:
    cursor = None
    for number in (1, 2, 1, 2, 1):
        source.land("2011-01-04/a.csv", source.line(number), age=100 * number)
        result = source.tick(cursor)
        (request,) = result.run_requests
        assert source.execute(request).success
        cursor = result.cursor
    assert source.rows() == 1


def test_a_table_that_was_dropped_voids_the_cursor(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_sensor, "_AGAIN_SECONDS", 0)
    source.land("2011-01-04/a.csv", source.line(1))
    source.execute(source.tick().run_requests[0])
    cursor = source.tick().cursor
    shutil.rmtree(source.bronze.uri)
    assert len(source.tick(cursor).run_requests) == 1


def test_a_file_still_being_written_is_reported_and_waits(source: Source) -> None:
    path = source.land("2011-01-04/a.csv", source.line(1), age=0)
    assert "1 files still being written" in skip_reason(source.tick())
    os.utime(path, (1e9, 1e9))
    assert len(source.tick().run_requests) == 1


def test_days_that_are_no_partition_do_not_lose_the_tick(source: Source) -> None:
    source.land("1999-01-01/a.csv", source.line(1))
    source.land("2091-01-01/a.csv", source.line(2))
    source.land("2011-01-04/a.csv", source.line(3))
    assert [days_of(request) for request in source.tick().run_requests] == [("2011-01-04", "2011-01-04")]
