"""The `delta` materialization's strategies, and its errors, on a small project that uses this project's macros."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner, dbtRunnerResult
from warm_dbt import PROJECT, warm_dbt

from pipeline_assets.dbt_plugin import write
from pipeline_assets.lake import Lake, Table, query_schema

pytestmark = pytest.mark.slow

_SOURCES = "sources: [{name: bronze, schema: bronze, tables: [{name: events}]}]"
_CONFIG = """
name: strategies
profile: pipeline_assets
flags: {send_anonymous_usage_stats: false, log_level_file: none}
on-run-start: "{{ open_lake() }}"
models: {strategies: {+materialized: delta, +schema: silver}}
"""
_ROWS = "select id, day, value, seq from "
_TOUCHED = "{{ touched_rows(source('bronze', 'events'), 'day') }}"
_MODELS = {
    "overwritten": ("{'strategy': 'overwrite'}", _ROWS + "{{ source('bronze', 'events') }}"),
    "appended": (
        "{'strategy': 'append'}",
        "{% set earlier = before(source('bronze', 'events')) %}" + _ROWS + "{{ source('bronze', 'events') }}"
        "{% if not is_rebuild() %} except all " + _ROWS + "{{ earlier }}{% endif %}",
    ),
    "by_day": ("{'strategy': 'replace', 'date_column': 'day', 'partition_by': 'day'}", _ROWS + _TOUCHED),
    "by_key": (
        "{'strategy': 'replace', 'unique_key': 'id'}",
        "select id, sum(value)::bigint as value from {{ source('bronze', 'events') }} "
        "where {{ touched_keys(source('bronze', 'events'), 'day', 'id') }} group by id",
    ),
    "merged": ("{'strategy': 'merge', 'unique_key': 'id', 'sequence': ['seq']}", _ROWS + _TOUCHED),
}  # fmt: skip


class Events:
    """A bronze table of events, and dbt on the project above."""

    def __init__(self, folder: Path, lake: Lake) -> None:
        self.folder, self.lake, self.con = folder, lake, lake.connect()
        self.table = Table(lake, "bronze.events")
        self.table.create(query_schema(self.con, self._rows([(1, 1, 1, 1)])), date_column="day")

    def _rows(self, rows: list[tuple[int, int, int, int]]) -> str:
        values = ", ".join(f"({key}, date '2011-01-{day:02}', {value}, {seq})" for key, day, value, seq in rows)
        typed = "id::bigint as id, day, value::bigint as value, seq::bigint as seq"
        return f"select {typed} from (values {values}) as t(id, day, value, seq)"

    def land(self, *rows: tuple[int, int, int, int]) -> None:
        """Appends rows of id, day of January 2011, value and sequence."""
        self.table.append(self.con, self._rows(list(rows)), batch_id=f"batch-{self.table.open().version()}")

    def remove(self, day: int) -> None:
        self.table.replace(self.con, "select * from (" + self._rows([(1, 1, 1, 1)]) + ") limit 0",
                           where=f"day = date '2011-01-{day:02}'")  # fmt: skip

    def model(self, name: str, options: str, sql: str) -> None:
        models = self.folder / "models"
        models.mkdir(exist_ok=True)
        (models / f"{name}.sql").write_text(f"{{{{ config(meta={options}) }}}}\n{sql}\n")

    def run(self, *args: str) -> dbtRunnerResult:
        where = [
            "--project-dir",
            str(self.folder),
            "--profiles-dir",
            str(PROJECT),
            "--log-path",
            str(self.folder / "logs"),
        ]
        return dbtRunner().invoke(["--quiet", "run", *args, *where])

    def rows(self, name: str) -> list[tuple[Any, ...]]:
        scan = Table(self.lake, f"silver.{name}").scan()
        return self.con.execute(f"select * replace (day(day) as day) from {scan} order by all").fetchall()

    def commits(self, name: str) -> int:
        return Table(self.lake, f"silver.{name}").open().version()


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without models, parsed: dbt then parses only the models that a test adds."""
    folder = tmp_path_factory.mktemp("strategies")
    shutil.copytree(PROJECT / "macros", folder / "macros")
    (folder / "models").mkdir()
    (folder / "dbt_project.yml").write_text(_CONFIG)
    (folder / "models" / "sources.yml").write_text(_SOURCES)
    warm_dbt(folder, folder)
    return folder


@pytest.fixture
def events(tmp_path: Path, lake: Lake, parsed: Path) -> Iterator[Events]:
    folder = tmp_path / "project"
    shutil.copytree(parsed, folder)
    opened = Events(folder, lake)
    yield opened
    opened.con.close()


def test_each_strategy_follows_its_upstream(events: Events) -> None:
    for name, (options, sql) in _MODELS.items():
        events.model(name, options, sql)
    events.land((1, 1, 10, 1), (2, 2, 20, 1))
    assert events.run().success
    events.land((1, 2, 11, 2), (3, 1, 30, 1))
    events.land((2, 3, 99, 0))  # older than the row that is merged already
    assert events.run().success
    everything = [(1, 1, 10, 1), (1, 2, 11, 2), (2, 2, 20, 1), (2, 3, 99, 0), (3, 1, 30, 1)]
    assert events.rows("overwritten") == everything
    assert events.rows("appended") == everything
    assert events.rows("by_day") == everything
    assert events.rows("merged") == [(1, 2, 11, 2), (2, 2, 20, 1), (3, 1, 30, 1)]
    commits = {name: events.commits(name) for name in _MODELS if name != "overwritten"}
    assert events.run().success
    assert commits == {name: events.commits(name) for name in commits}
    assert events.rows("appended") == everything

    events.remove(3)
    assert events.run("--exclude", "appended").success
    assert events.rows("by_day") == [row for row in everything if row[1] != 3]
    keys = Table(events.lake, "silver.by_key").scan()
    assert events.con.execute(f"from {keys} order by id").fetchall() == [(1, 21), (2, 20), (3, 30)]

    assert events.run("--full-refresh").success
    assert events.rows("merged") == [(1, 2, 11, 2), (2, 2, 20, 1), (3, 1, 30, 1)]
    assert events.rows("appended") == events.rows("overwritten") == events.rows("by_day")


def test_a_model_whose_columns_changed_asks_for_a_full_refresh(events: Events, failures: Callable[..., str]) -> None:
    options, sql = _MODELS["by_day"]
    events.model("by_day", options, sql)
    events.land((1, 1, 10, 1))
    assert events.run().success
    events.model("by_day", options, sql.replace("value,", "value::double as value, 'x' as extra,"))
    events.land((2, 2, 10, 1))
    message = failures(events.run())
    assert "column extra is new (" in message
    assert "column value is " in message
    assert "dbt build --full-refresh --select by_day+" in message
    assert events.rows("by_day") == [(1, 1, 10, 1)]
    assert events.run("--full-refresh").success
    assert events.rows("by_day") == [(1, 1, 10.0, "x", 1), (2, 2, 10.0, "x", 1)]
    events.land((3, 3, 10, 1))
    assert events.run().success
    assert len(events.rows("by_day")) == 3
    events.model("by_day", "{'strategy': 'replace', 'date_column': 'day'}", sql)
    assert "is partitioned by ['day'], the model says []" in failures(events.run())


def test_rows_of_other_days_than_are_replaced_are_refused(events: Events, failures: Callable[..., str]) -> None:
    options, sql = _MODELS["by_day"]
    events.model("by_day", options, sql.replace("day,", "(day + 1)::date as day,"))
    events.land((1, 1, 10, 1))
    assert events.run().success
    for value in (20, 30):
        events.land((2, 2, value, 1))
        message = failures(events.run())
        assert "silver.by_day: the model gives a row of 2011-01-03, which is not among the days" in message
    assert events.rows("by_day") == [(1, 2, 10, 1)]


@pytest.mark.parametrize("name", ["by_day", "by_key", "merged", "appended"])
def test_a_new_column_asks_for_a_full_refresh_though_no_row_is_new(
    events: Events, failures: Callable[..., str], name: str
) -> None:
    options, sql = _MODELS[name]
    events.model(name, options, sql)
    events.land((1, 1, 10, 1))
    assert events.run().success
    assert events.run().success, "nothing is new, and nothing has changed"
    events.model(name, options, sql.replace("select id,", "select 'x' as extra, id,"))
    message = failures(events.run())
    assert "column extra is new (" in message
    assert f"dbt build --full-refresh --select {name}+" in message


def test_columns_that_did_not_change_are_looked_at_once(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in _MODELS if name != "overwritten"]
    for name in names:
        events.model(name, *_MODELS[name])
    events.land((1, 1, 10, 1))
    assert events.run().success
    asked: list[str] = []
    monkeypatch.setattr(write, "query_schema", lambda con, sql: asked.append(sql) or query_schema(con, sql))
    events.land((2, 2, 20, 1))
    assert events.run().success
    assert asked == [], "the rows are held against the table as they are written"
    assert events.run().success
    assert len(asked) == 3, "by_day, by_key and appended write no row that could be refused"


def test_types_that_widen_upstream_widen_in_all_models(events: Events) -> None:
    for name, (options, sql) in _MODELS.items():
        events.model(name, options, sql.replace("sum(value)::bigint", "sum(value)::decimal(30, 0)"))
    downstream = "select day, value from {{ touched_rows(ref('by_day'), 'day') }}"
    events.model("further", "{'strategy': 'replace', 'date_column': 'day'}", downstream)
    events.table.retype(events.con, {"value": "value::integer"})
    rows = "select 1::bigint as id, date '2011-01-01' as day, 7::integer as value, 1::bigint as seq"
    events.table.append(events.con, rows, batch_id="narrow")
    assert events.run().success
    events.table.widen(events.con, query_schema(events.con, rows.replace("integer", "bigint")))
    events.land((2, 2, 5_000_000_000, 1))
    assert events.run().success
    for name in ("by_day", "merged", "appended", "overwritten"):
        assert events.rows(name) == [(1, 1, 7, 1), (2, 2, 5_000_000_000, 1)], name
    assert events.con.execute(f"select max(value) from {Table(events.lake, 'silver.further').scan()}").fetchone() == (
        5_000_000_000,
    )


@pytest.mark.parametrize(
    ("options", "sql", "problem"),
    [
        ("{'strategy': 'upsert'}", _ROWS + _TOUCHED, "strategy is 'upsert'; use overwrite, append, replace or merge"),
        ("{'strategy': 'append'}", _ROWS + _TOUCHED, "would add the old rows of touched days once more"),
        ("{'strategy': 'merge', 'unique_key': 'id'}", _ROWS + _TOUCHED, "strategy merge needs unique_key and sequence"),
        ("{'strategy': 'replace'}", "select 1 as id", "needs touched_rows(), touched_keys() or changed_keys()"),
        ("{'strategy': 'replace'}", _ROWS + _TOUCHED, "strategy replace needs date_column"),
    ],
    ids=["unknown", "append of touched rows", "merge without sequence", "replace of nothing", "replace without days"],
)
def test_options_that_do_not_fit_are_refused(
    events: Events, failures: Callable[..., str], options: str, sql: str, problem: str
) -> None:
    events.model("wrong", options, sql)
    events.land((1, 1, 10, 1))
    assert problem in failures(events.run())
    assert not Table(events.lake, "silver.wrong").exists()
