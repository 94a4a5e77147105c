"""State and history of a change table: what each kind of event does, and what is not read for it.

Events commit at hours (`at`) after 2026-01-01; any order of them is in tests/properties/test_change_order.py.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from change_models import HISTORY, SOURCE, STATE, ChangeModels, event
from dbt_common.exceptions import DbtRuntimeError

from pipeline_assets.dbt_plugin import changes
from pipeline_assets.lake import Lake, Table, position_name
from pipeline_assets.settings import load_settings


class Things(pa.DataFrameModel):
    """A source's row."""

    id: pl.Int64
    text: pl.String = pa.Field(nullable=True)
    number: pl.Int64 = pa.Field(nullable=True)
    since: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


class Clashing(pa.DataFrameModel):
    """Has a column that a history has itself."""

    id: pl.Int64
    valid_from: pl.Date


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChangeModels]]:
    """Makes the models of a change table with ten keys to a partition."""
    monkeypatch.setenv("PIPELINE_LAKE_URI", str(tmp_path))
    load_settings.cache_clear()
    made: list[ChangeModels] = []

    def models(valid_at: str | None = None, model: Any = Things) -> ChangeModels:
        monkeypatch.setattr(changes, "contract", lambda name: model)
        lake = Lake(str(tmp_path), {"provider": "local"})
        made.append(ChangeModels(lake, model, ["id"], "id // 10", valid_at=valid_at))
        return made[-1]

    yield models
    for one in made:
        one.close()
    load_settings.cache_clear()


@pytest.fixture
def things(make: Callable[..., ChangeModels]) -> ChangeModels:
    return make()


def insert(key: int, at: int, text: str = "a", number: int = 1, **options: Any) -> Any:
    return event(options.pop("op", "c"), {"id": key}, {"text": text, "number": number}, at=at, **options)


def update(key: int, at: int, *, unavailable: tuple[str, ...] = (), **values: Any) -> Any:
    return event("u", {"id": key}, values, at=at, unavailable=unavailable)


def delete(key: int, at: int, **options: Any) -> Any:
    return event("d", {"id": key}, at=at, **options)


def truncate(at: int, seq: int = 0) -> Any:
    return event("t", None, at=at, seq=seq)


def hour(number: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)


def state(things: ChangeModels, columns: str = "id, text, number, _deleted") -> list[tuple[Any, ...]]:
    return things.rows(STATE, columns)


def history(things: ChangeModels, columns: str = "id, text, number") -> list[tuple[Any, ...]]:
    """Versions of each key in order: the columns, then the hours from and to, `current`, `deleted` or `past`."""
    kind = "CASE WHEN is_current THEN 'current' WHEN is_deleted THEN 'deleted' ELSE 'past' END"
    hours = "hour(valid_from) + 24 * (day(valid_from) - 1), hour(valid_to) + 24 * (day(valid_to) - 1)"
    scan = Table(things.lake, HISTORY).scan()
    return things.con.execute(f"SELECT {columns}, {hours}, {kind} FROM {scan} ORDER BY id, valid_from").fetchall()


def lose_files(things: ChangeModels, name: str, folder: str) -> None:
    """Makes every read of a partition an error."""
    found = [*Path(Table(things.lake, name).uri).glob(f"{folder}/*.parquet")]
    assert found
    for file in found:
        file.write_text("not to be read")


# ---------------------------------------------------------------------------- events


def test_the_last_event_of_a_key_is_its_state_and_all_of_them_its_history(things: ChangeModels) -> None:
    things.land(insert(1, 1, op="r"), insert(2, 1, seq=2))
    things.run()
    things.land(update(1, 3, text="b", number=2), delete(2, 4))
    things.run()
    assert state(things) == [(1, "b", 2, False), (2, None, None, True)]
    assert history(things) == [
        (1, "a", 1, 1, 3, "past"),
        (1, "b", 2, 3, None, "current"),
        (2, "a", 1, 1, 4, "past"),
        (2, None, None, 4, None, "deleted"),
    ]
    columns = "_commit_lsn, _tx_seq, _changed_at, _changed_date, _bucket, _unavailable"
    assert state(things, columns)[0] == (3, 1, hour(3), date(2026, 1, 1), 0, [])


def test_a_deleted_row_is_not_revived_by_an_older_event_and_comes_back_by_a_newer_one(things: ChangeModels) -> None:
    things.land(insert(1, 1), delete(1, 5))
    things.run()
    things.land(update(1, 3, text="late", number=9))
    things.run()
    assert state(things) == [(1, None, None, True)]
    assert history(things)[1:] == [(1, "late", 9, 3, 5, "past"), (1, None, None, 5, None, "deleted")]
    things.land(insert(1, 8, "back"))
    things.run()
    assert state(things) == [(1, "back", 1, False)]
    assert history(things)[2:] == [(1, None, None, 5, 8, "deleted"), (1, "back", 1, 8, None, "current")]


def test_columns_left_out_are_those_of_the_batch_or_of_the_stored_row(things: ChangeModels) -> None:
    things.land(insert(1, 1, "toasted"), insert(2, 1, "toasted", seq=2))
    things.run()
    things.land(
        update(1, 2, number=2, unavailable=("text",)),
        update(2, 2, text="new", number=2),
        update(2, 3, number=3, unavailable=("text",)),
        update(2, 4, text=None, unavailable=("number",)),  # null is a value that was told
        update(2, 5, number=5, unavailable=("text",)),
    )
    things.run()
    assert state(things) == [(1, "toasted", 2, False), (2, None, 5, False)]
    assert [row[1:3] for row in history(things) if row[0] == 2] == [
        ("toasted", 1),
        ("new", 2),
        ("new", 3),
        (None, 3),
        (None, 5),
    ]
    assert {row[0] for row in state(things, "len(_unavailable)")} == {0}


def test_a_column_that_no_event_has_told_is_named_until_a_late_one_tells_it(things: ChangeModels) -> None:
    things.land(update(1, 5, number=2, unavailable=("text",)))
    things.run()
    assert state(things, "text, _unavailable, _commit_lsn") == [(None, ["text"], 5)]
    things.land(insert(1, 1, "told"))
    things.run()
    assert state(things, "text, _unavailable, _commit_lsn") == [("told", [], 5)]
    assert history(things) == [(1, "told", 1, 1, 5, "past"), (1, "told", 2, 5, None, "current")]


def test_what_was_told_before_a_delete_is_not_known_after_it(things: ChangeModels) -> None:
    things.land(insert(1, 1, "old"), delete(1, 2))
    things.run()
    things.land(update(1, 3, number=2, unavailable=("text",)))
    things.run()
    assert state(things, "text, _unavailable") == [(None, ["text"])]


def test_an_update_of_the_key_takes_along_what_the_insert_leaves_out(things: ChangeModels) -> None:
    def move(old: int, new: int, at: int, seq: int = 1) -> list[Any]:
        after = event("c", {"id": new}, {"number": at}, at=at, seq=seq + 1, lsn=at, unavailable=["text"])
        return [delete(old, at, seq=seq, lsn=at), after]

    things.land(insert(1, 1, "kept"))
    things.run()
    things.land(*move(1, 22, 2), *move(22, 3, 3))
    things.run()
    assert state(things) == [(1, None, None, True), (3, "kept", 3, False), (22, None, None, True)]
    left, came = move(3, 44, 9)
    things.land(came)  # before its other half
    things.run()
    assert state(things, "id, text, _unavailable")[-1] == (44, None, ["text"])
    things.land(left)
    things.run()
    assert state(things, "id, text, _unavailable")[-1] == (44, "kept", [])
    assert history(things)[-1] == (44, "kept", 9, 9, None, "current")


def test_a_truncation_ends_every_row_but_those_that_came_after_it(things: ChangeModels) -> None:
    things.land(*(insert(key, 1, seq=key) for key in (1, 2, 33)))
    things.run()
    things.land(update(1, 2, text="b", number=1), truncate(4), insert(2, 4, "after", seq=1), insert(5, 6))
    things.run()
    assert state(things) == [
        (1, None, None, True),
        (2, "after", 1, False),
        (5, "a", 1, False),
        (33, None, None, True),
    ]
    assert history(things) == [
        (1, "a", 1, 1, 2, "past"),
        (1, "b", 1, 2, 4, "past"),
        (1, None, None, 4, None, "deleted"),
        (2, "a", 1, 1, 4, "past"),
        (2, "after", 1, 4, None, "current"),
        (5, "a", 1, 6, None, "current"),  # not deleted at 4: it never was before
        (33, "a", 1, 1, 4, "past"),
        (33, None, None, 4, None, "deleted"),
    ]


def test_a_late_truncation_makes_the_tables_anew(things: ChangeModels) -> None:
    things.land(insert(1, 1), insert(2, 8))
    things.run()
    things.land(truncate(5))
    things.run()
    assert state(things) == [(1, None, None, True), (2, "a", 1, False)]
    assert history(things)[1:] == [(1, None, None, 5, None, "deleted"), (2, "a", 1, 8, None, "current")]


def test_a_snapshot_over_stored_rows_deletes_what_it_has_not_and_leaves_the_history_of_the_others(
    things: ChangeModels,
) -> None:
    things.land(insert(1, 1), insert(2, 1, seq=2), insert(3, 1, seq=3))
    things.run()
    before = history(things)
    things.land(truncate(9), insert(1, 9, op="r", seq=1), insert(3, 9, "b", op="r", seq=2))
    things.run()
    assert state(things, "id, text, _deleted") == [(1, "a", False), (2, None, True), (3, "b", False)]
    assert history(things) == [
        before[0],
        (2, "a", 1, 1, 9, "past"),
        (2, None, None, 9, None, "deleted"),
        (3, "a", 1, 1, 9, "past"),
        (3, "b", 1, 9, None, "current"),
    ]


def test_versions_begin_by_the_sources_clock_and_never_before_the_last_one(make: Callable[..., ChangeModels]) -> None:
    def said(at: int, text: str, hours: float | None) -> Any:
        return update(1, at, text=text, number=1, since=None if hours is None else hour(hours).isoformat())

    things = make(valid_at="since")
    things.land(said(100, "a", 1), said(101, "b", 3), said(102, "c", 3))  # b and c of one moment
    things.run()
    assert history(things, "text") == [("a", 1, 3, "past"), ("b", 3, 3, "past"), ("c", 3, None, "current")]
    things.land(said(103, "d", 2), said(104, "e", 5))  # d began before c did
    things.run()
    assert history(things, "text")[2:] == [("c", 3, 3, "past"), ("d", 3, 5, "past"), ("e", 5, None, "current")]
    assert things.rows(HISTORY, "valid_from - date_trunc('hour', valid_from)")[2:5] == [
        (timedelta(0),), (timedelta(microseconds=1),), (timedelta(microseconds=2),)
    ]  # fmt: skip
    things.land(said(105, "f", None), delete(1, 106))  # without a clock of the source, the commit's
    things.run()
    assert history(things, "text")[-2:] == [("f", 105, 106, "past"), (None, 106, None, "deleted")]


def test_a_change_that_changes_nothing_is_no_version(things: ChangeModels) -> None:
    things.land(insert(1, 1), update(1, 2, text="b", number=1))
    things.run()
    things.land(update(1, 3, text="b", number=1))
    things.run()
    assert history(things, "text") == [("a", 1, 2, "past"), ("b", 2, None, "current")]
    assert things.rows(HISTORY, "_as_of") == [(hour(3),), (None,)]


def test_every_change_is_a_version_though_the_clock_stands_or_steps_back(things: ChangeModels) -> None:
    def at_second(at: int, ts: float, number: int, seq: int = 1) -> Any:
        return event("u", {"id": 1}, {"text": "x", "number": number}, at=at, ts=ts, seq=seq)

    changes = [at_second(at, 1 + at // 4, number=at) for at in range(1, 9)]
    changes += [at_second(9, 3, number=9, seq=1), at_second(9, 3, number=10, seq=2), at_second(10, 2, number=11)]
    for batch in (changes[:3], changes[3:4], changes[4:8], changes[8:10], changes[10:]):
        things.land(*batch)
        things.run()
    found = history(things, "number, valid_from, valid_to")
    assert [number for number, *_ in found] == list(range(1, 12))
    assert [begin for _, begin, *_ in found[1:]] == [end for _, _, end, *_ in found[:-1]]
    assert len({begin for _, begin, *_ in found}) == 11
    moments = [(begin - hour(0)) // timedelta(microseconds=1) % 3_600_000_000 for _, begin, *_ in found]
    assert moments == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]
    in_steps = things.rows(HISTORY)
    things.run(full_refresh=True)
    assert things.rows(HISTORY) == in_steps


def test_a_change_undone_at_once_is_a_version_of_a_microsecond(things: ChangeModels) -> None:
    things.land(insert(1, 1), event("u", {"id": 1}, {"text": "c", "number": 1}, at=5, ts=1))
    things.land(event("u", {"id": 1}, {"text": "a", "number": 1}, at=6, ts=1))
    things.run()
    assert things.rows(HISTORY, "valid_from, text, valid_to") == [
        (hour(1), "a", hour(1) + timedelta(microseconds=1)),
        (hour(1) + timedelta(microseconds=1), "c", hour(1) + timedelta(microseconds=2)),
        (hour(1) + timedelta(microseconds=2), "a", None),
    ]


# ---------------------------------------------------------------------------- columns


def test_columns_that_the_source_adds_are_added_as_text_and_stay_filled(things: ChangeModels) -> None:
    things.land(insert(1, 1), insert(2, 1, seq=2))
    things.run()
    things.land(update(1, 2, text="b", number=2, colour="red", size=4, tags=["x"]))
    things.run()
    assert state(things, "id, colour, size, tags") == [(1, "red", "4", '["x"]'), (2, None, None, None)]
    things.land(update(2, 3, text="b", number=2))
    things.land(update(1, 4, text="c", number=2, size=5, unavailable=("colour", "tags")))
    things.run()
    assert state(things, "id, colour, size, tags") == [(1, "red", "5", '["x"]'), (2, None, None, None)]
    versions = [(1, None, None), (1, "red", "4"), (1, "red", "5"), (2, None, None), (2, None, None)]
    assert [row[:3] for row in history(things, "id, colour, size")] == versions
    before = {
        name: sorted(things.rows(name, "COLUMNS(* EXCLUDE (number)), number"), key=str) for name in (STATE, HISTORY)
    }
    things.run(full_refresh=True)
    after = {
        name: sorted(things.rows(name, "COLUMNS(* EXCLUDE (number)), number"), key=str) for name in (STATE, HISTORY)
    }
    assert [len(rows) for rows in after.values()] == [len(rows) for rows in before.values()]
    assert state(things, "id, colour, size, tags") == [(1, "red", "5", '["x"]'), (2, None, None, None)]


def test_an_added_column_that_a_change_leaves_out_is_null_as_before_it_was_added(things: ChangeModels) -> None:
    things.land(insert(1, 1))
    things.run()
    things.land(update(1, 2, text="b", number=1, unavailable=("colour",)))
    things.run()
    assert state(things, "text, colour, _unavailable") == [("b", None, [])]


def test_added_columns_that_would_clash_stay_in_bronze(things: ChangeModels) -> None:
    things.land(event("c", {"id": 1}, {"text": "a", "TEXT": "b", "_deleted": True, "Colour": 1, "colour": 2}, at=1))
    things.run()
    names = [field.name for field in things.log(STATE).schema().fields]
    assert names.count("Colour") == 1
    assert "TEXT" not in names
    assert state(things, '"Colour", _deleted') == [("1", False)]


def test_a_contract_that_clashes_or_lacks_a_key_is_refused(make: Callable[..., ChangeModels]) -> None:
    with pytest.raises(DbtRuntimeError, match="has columns whose names state and history use themselves: valid_from"):
        make(model=Clashing).run()


# Of the change table, of the SQL of the macros, and aliases in it.
_OF_EVENTS = [
    "op",
    "ts",
    "key",
    "before",
    "after",
    "unavailable",
    "commit_lsn",
    "tx_seq",
    "lsn",
    "txid",
    "seq",
    "table",
]
_OF_SQL = [
    "said_at",
    "known_from",
    "as_of",
    "last_ts",
    "one",
    "other",
    "name",
    "new",
    "old",
    "a",
    "b",
    "day",
    "touched",
]
_NAMES = [*_OF_EVENTS, *_OF_SQL, "events", "stored", "moments", "states", "_batch_id", "_source"]
_NAMES += ["_id", "_key", "_row", "_nth", "_life", "_origin", "_told_1", "_earliest"]


@pytest.mark.parametrize(
    "keys",
    [
        ["key", "op", "id"],
        *(pytest.param(keys, marks=pytest.mark.integration) for keys in (["id"], ["ts", "_key", "id"])),
    ],
)
def test_a_source_may_call_its_columns_as_the_change_table_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str]
) -> None:
    named = _rows_with_columns(tmp_path / "named", monkeypatch, {name: name for name in _NAMES}, keys)
    assert named == _rows_with_columns(tmp_path / "plain", monkeypatch, {name: f"c_{name}" for name in _NAMES}, keys)
    assert [row[0] for row in named[STATE]].count(1) == 1
    assert len(named[HISTORY]) > 6


def _rows_with_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, str], keys: list[str]
) -> dict[str, list[tuple[Any, ...]]]:
    """State and history of the same events, whatever the columns are called."""
    fields = {f"field_{at}": pa.Field(alias=name, nullable=True) for at, name in enumerate(columns.values())}
    types = {"id": pl.Int64, **dict.fromkeys(fields, pl.String)}
    model: Any = type("Row", (pa.DataFrameModel,), {"__annotations__": types, **fields})
    keys = [columns.get(name, name) for name in keys]
    monkeypatch.setenv("PIPELINE_LAKE_URI", str(folder))
    monkeypatch.setattr(changes, "contract", lambda name: model)
    load_settings.cache_clear()

    def change(op: str, key: int, at: int, *, lacking: str = "", **options: Any) -> Any:
        told = {name: key if name == "id" else str(key) for name in keys}
        row = {columns[name]: f"{name} {at}" for name in columns if name != lacking and columns[name] not in keys}
        unavailable = (columns[lacking],) if lacking else ()
        return event(op, told, None if op == "d" else row, at=at, unavailable=unavailable, **options)

    things = ChangeModels(Lake(str(folder), {"provider": "local"}), model, keys, "id // 10")
    things.land(*(change("c", key, 1, seq=key) for key in (1, 2, 3, 23)))
    things.run()
    moved = change("d", 2, 4, lsn=400), change("c", 4, 4, seq=2, lsn=400, lacking="before")
    things.land(change("u", 1, 3, lacking="after"), *moved, change("d", 3, 5))
    things.run()
    things.land(change("u", 1, 2, lacking="unavailable"))
    things.run()
    things.land(truncate(6), change("c", 23, 7))
    things.run()
    order = ", ".join(f'"{name}"' for name in ("id", *columns.values()))
    own = {
        STATE: "_deleted, _commit_lsn, _changed_at",
        HISTORY: "valid_from, valid_to, is_deleted, _commit_lsn, _as_of",
    }
    found = {name: things.rows(name, f"{order}, len(_unavailable), {own[name]}") for name in (STATE, HISTORY)}
    things.close()
    return found


# ---------------------------------------------------------------------------- what is read


def test_only_new_batches_are_read_and_only_partitions_of_their_keys(things: ChangeModels) -> None:
    things.land(*(insert(key, 1, seq=key) for key in (1, 12, 23, 34)))
    things.run()
    things.land(update(12, 30, text="b", number=1), update(34, 31, number=5, unavailable=("text",)))
    lose_files(things, SOURCE, "_partition_date=2026-01-01")
    for name in (STATE, HISTORY):
        for bucket in (0, 2):
            lose_files(things, name, f"_bucket={bucket}")
    things.run()
    select = f"SELECT id, text, number FROM {Table(things.lake, STATE).scan()} WHERE _bucket ="
    assert things.con.execute(f"{select} 1").fetchall() == [(12, "b", 1)]
    assert things.con.execute(f"{select} 3").fetchall() == [(34, "a", 5)]
    assert things.log(STATE).history(1)[0]["added_dates"] == '["2026-01-02"]'


def test_a_batch_of_the_same_day_is_told_from_those_before_it(things: ChangeModels) -> None:
    things.land(insert(1, 1))
    things.run()
    version = things.log(STATE).version()
    things.land(insert(2, 2))
    things.run()
    commit = things.log(STATE).history(1)[0]
    assert (commit["rows_added"], commit["rows_removed"]) == ("1", "0")
    assert things.log(STATE).version() == version + 1


def test_a_run_without_new_events_commits_nothing(things: ChangeModels) -> None:
    things.land(insert(1, 1))
    things.run()
    versions = [things.log(name).version() for name in (STATE, HISTORY)]
    things.run()
    assert [things.log(name).version() for name in (STATE, HISTORY)] == versions
    Table(things.lake, SOURCE).commit(things.con, [], positions={"slot:x": 9})  # the drain found nothing
    things.run()
    for name in (STATE, HISTORY):
        commit = things.log(name).history(1)[0]
        assert (commit["rows_added"], commit["rows_removed"]) == ("0", "0")


def test_data_tests_look_at_the_days_of_the_rows_that_came(things: ChangeModels) -> None:
    things.land(*(insert(key, 1, seq=key) for key in (1, 2)))
    things.run()
    assert things.test_range(HISTORY) == "true"  # made anew
    things.land(update(1, 30, text="b", number=1))
    things.run()
    only = "\"_changed_date\" >= DATE '2026-01-02' AND \"_changed_date\" < DATE '2026-01-03'"
    assert [things.test_range(name) for name in (STATE, HISTORY)] == [only, only]
    things.run()
    assert things.test_range(STATE) == "false"


def test_downstream_is_told_of_changed_keys_and_of_tables_made_anew(things: ChangeModels) -> None:
    things.land(*(insert(key, 1, seq=key) for key in (1, 2, 33)))
    things.run()
    position, gold = position_name(Table(things.lake, HISTORY)), Table(things.lake, "gold.things")
    gold.create(things.log(STATE).schema())
    gold.commit(things.con, [], positions={position: things.log(HISTORY).version()})
    assert things.changed_keys("gold.things", HISTORY) == []
    things.land(update(2, 2, text="b", number=1), update(1, 2, text="a", number=1))  # of 1, nothing but the clock
    things.run()
    assert things.changed_keys("gold.things", HISTORY) == [1, 2]
    gold.commit(things.con, [], positions={position: things.log(HISTORY).version()})
    things.land(update(33, 3, text="c", number=1))
    things.run()
    assert things.changed_keys("gold.things", HISTORY) == [33]  # and not all of the day
    things.run(full_refresh=True)
    assert things.changed_keys("gold.things", HISTORY) is None


def test_maintenance_of_bronze_is_no_news_and_removed_events_make_the_tables_anew(things: ChangeModels) -> None:
    things.land(insert(1, 1))
    things.land(insert(2, 2))
    things.run()
    things.log(SOURCE).optimize.compact()
    things.land(insert(3, 3))
    things.run()
    assert things.log(STATE).history(1)[0]["rows_added"] == "1"
    Table(things.lake, SOURCE).replace(
        things.con, f"SELECT * FROM {Table(things.lake, SOURCE).scan()} LIMIT 0", where="commit_lsn = 2"
    )
    things.run()
    assert [row[0] for row in state(things)] == [1, 3]
    assert [row[0] for row in history(things)] == [1, 3]


def test_a_source_that_was_never_loaded_is_an_empty_one_and_one_that_vanished_is_an_error(things: ChangeModels) -> None:
    things.run()
    assert state(things) == history(things) == []
    things.land(insert(1, 1))
    things.run()
    assert state(things) == [(1, "a", 1, False)]
    Path(Table(things.lake, SOURCE).uri).rename(Path(things.lake.uri) / "away")
    with pytest.raises(DbtRuntimeError, match=f"{STATE} holds rows made of {SOURCE}.* is missing: restore it"):
        things.run()
    assert state(things) == [(1, "a", 1, False)]


def test_a_change_table_that_was_made_anew_replaces_all_rows(things: ChangeModels) -> None:
    things.land(insert(1, 1))
    things.run()
    Path(Table(things.lake, SOURCE).uri).rename(Path(things.lake.uri) / "away")
    things.land(insert(2, 1))
    things.run()
    assert state(things) == [(2, "a", 1, False)]
    assert [row[0] for row in history(things)] == [2]


@pytest.mark.parametrize("name", [STATE, HISTORY])
def test_of_two_runs_at_once_the_slower_one_writes_nothing(things: ChangeModels, name: str, monkeypatch: Any) -> None:
    things.land(insert(1, 1))
    things.run()
    things.land(update(1, 2, text="b", number=1))
    operation = "merge" if name == STATE else "replace_keys"
    real = getattr(Table, operation)

    def after_another_run(table: Table, con: Any, *args: Any, **kwargs: Any) -> int:
        table.commit(con, [], positions=kwargs["positions"])
        return real(table, con, *args, **kwargs)

    monkeypatch.setattr(Table, operation, after_another_run)
    with pytest.raises(DbtRuntimeError, match=f"table {name}: the log moved"):
        things.run(name)
    assert things.rows(name, "text") == [("a",)]
