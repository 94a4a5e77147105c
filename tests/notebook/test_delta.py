# ruff: noqa: DTZ001  times without a zone are what some of it is about
"""Frames become tables; the same content again changes nothing."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable

from pipeline_assets import DeltaLakeManager
from pipeline_assets.lake import LakeError, SchemaMismatchError, Table
from pipeline_assets.notebook import NotebookError
from pipeline_assets.notebook.places import lake_at

Make = Any


@pytest.fixture
def manager(tmp_path: Path) -> DeltaLakeManager:
    return DeltaLakeManager(storage_path=str(tmp_path))


def kinds(path: Path) -> dict[str, str]:
    return {field.name: str(getattr(field.type, "type", field.type)) for field in DeltaTable(str(path)).schema().fields}


def test_names_are_places(manager: DeltaLakeManager, make: Make, tmp_path: Path, stored: Any) -> None:
    assert manager.create_or_update_table(df=make({"id": [1]}), table_name="orders") == 1
    assert manager.create_or_update_table(make({"id": [2]}), "silver.orders") == 1
    assert stored(tmp_path / "bronze" / "orders") == [{"id": 1}]
    assert stored(tmp_path / "silver" / "orders") == [{"id": 2}]
    with pytest.raises(LakeError, match="is not a table name"):
        manager.create_or_update_table(make({"id": [1]}), "copper.orders")


def test_the_same_content_is_one_commit(manager: DeltaLakeManager, tmp_path: Path, stored: Any) -> None:
    rows = {"id": [1, 2, 2], "price": [Decimal("1.10"), None, Decimal("2.00")], "note": ["a", None, "é"]}
    frame = pl.DataFrame(rows, schema_overrides={"price": pl.Decimal(38, 2)})
    extracted = frame.with_columns(_extracted_at=datetime(2026, 1, 1, tzinfo=UTC))
    later = extracted.with_columns(_extracted_at=datetime(2026, 1, 2, tzinfo=UTC))
    first = manager.create_or_update_table(extracted, "t")
    assert manager.create_or_update_table(extracted, "t") == first
    assert manager.create_or_update_table(later.reverse(), "t") == first
    assert manager.create_or_update_table(later.head(2), "t") == first + 1
    assert len(stored(tmp_path / "bronze" / "t")) == 5
    # The same frame of the other library.
    manager.create_or_update_table(frame, "u")
    assert manager.create_or_update_table(pd.DataFrame(rows), "u") == 1


def test_after_an_overwrite_what_was_there_before_is_news(
    manager: DeltaLakeManager, tmp_path: Path, stored: Any
) -> None:
    one, two = pl.DataFrame({"id": [1]}), pl.DataFrame({"id": [2]})
    manager.create_or_update_table(one, "t")
    manager.create_or_update_table(two, "t", mode="overwrite")
    assert stored(tmp_path / "bronze" / "t") == [{"id": 2}]
    for _ in range(2):
        manager.create_or_update_table(one, "t")
    assert sorted(row["id"] for row in stored(tmp_path / "bronze" / "t")) == [1, 2]
    manager.create_or_update_table(pl.DataFrame({"other": ["x"]}), "t", mode="overwrite")
    assert stored(tmp_path / "bronze" / "t") == [{"other": "x"}]
    manager.create_or_update_table(pl.DataFrame({"other": []}, schema={"other": pl.String}), "t", mode="overwrite")
    assert stored(tmp_path / "bronze" / "t") == []


def test_two_overwrites_at_once_are_two(
    manager: DeltaLakeManager, tmp_path: Path, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (pl.DataFrame({"id": [number]}) for number in (1, 2, 3))
    manager.create_or_update_table(one, "t")
    overwrite = Table.overwrite

    def meets(*args: Any, **options: Any) -> int:
        monkeypatch.setattr(Table, "overwrite", overwrite)
        manager.create_or_update_table(two, "t", mode="overwrite")
        manager.create_or_update_table(three, "t")
        return overwrite(*args, **options)

    monkeypatch.setattr(Table, "overwrite", meets)
    manager.create_or_update_table(one, "t", mode="overwrite")
    manager.create_or_update_table(three, "t")
    assert sorted(row["id"] for row in stored(tmp_path / "bronze" / "t")) == [1, 3]


def test_an_append_that_is_skipped_is_told(manager: DeltaLakeManager, caplog: pytest.LogCaptureFixture) -> None:
    one, two = (pl.DataFrame({"id": [number]}) for number in (1, 2))
    for frame in (one, two):
        manager.create_or_update_table(frame, "t")
    assert not caplog.messages
    manager.create_or_update_table(one, "t")
    assert caplog.messages == ["bronze.t has these 1 rows since version 1: nothing was appended"]


def test_an_empty_frame_is_no_commit(manager: DeltaLakeManager, tmp_path: Path) -> None:
    empty = pl.DataFrame(schema={"id": pl.Int64, "day": pl.Date})
    assert manager.create_or_update_table(empty, "t", ["day"]) == 0
    assert manager.create_or_update_table(empty, "t") == 0
    assert kinds(tmp_path / "bronze" / "t") == {"id": "long", "day": "date"}


def test_values_are_stored_as_they_are(manager: DeltaLakeManager, tmp_path: Path, kind: str, stored: Any) -> None:
    given = {
        "unsigned": np.array([2**64 - 1], dtype="uint64"), "byte": np.array([255], dtype="uint8"),
        "money": [Decimal("1.10")], "day": [date(2026, 1, 1)], "local": [datetime(2026, 1, 1, 2)],
        "moment": [datetime(2026, 1, 1, 2, tzinfo=UTC)], "nested": [{"a": [1, 2]}], "bytes": [b"\xff"], "flag": [True],
        "text": ["é"],
    }  # fmt: skip
    frame = pl.DataFrame(given) if kind == "polars" else pd.DataFrame(given)
    if isinstance(frame, pl.DataFrame):
        frame = frame.with_columns(pl.col("text").cast(pl.Categorical), whole=pl.lit(None, pl.Int64))
    else:
        frame["text"] = frame["text"].astype("category")
        frame["whole"] = pd.array([None], "Int64")
    manager.create_or_update_table(frame, "t")
    (row,) = stored(tmp_path / "bronze" / "t")
    assert row == {
        **given, "unsigned": Decimal(2**64 - 1), "byte": 255, "money": Decimal("1.10"), "day": date(2026, 1, 1),
        "local": datetime(2026, 1, 1, 2), "moment": datetime(2026, 1, 1, 2, tzinfo=UTC), "nested": {"a": [1, 2]},
        "bytes": b"\xff", "flag": True, "whole": None, "text": "é",
    }  # fmt: skip


def test_partitions(manager: DeltaLakeManager, tmp_path: Path, stored: Any) -> None:
    days = [date(2026, 1, 1), None]
    for column in (days, ["a/b =é%", None], [1, None], [True, False]):
        name = f"t{abs(hash(str(column)))}"
        rows = [{"part": value, "id": number} for number, value in enumerate(column)]
        manager.create_or_update_table(pl.DataFrame(rows), name, ["part"])
        assert sorted(stored(tmp_path / "bronze" / name), key=lambda row: row["id"]) == rows
        with manager._lake.connect() as con:
            found = con.sql(f"SELECT part, id FROM delta_scan('{tmp_path}/bronze/{name}') ORDER BY id").fetchall()
        assert found == [(row["part"], row["id"]) for row in rows]


@pytest.mark.parametrize(
    ("frame", "partitions", "message"),
    [
        ({"a": [1]}, ["b"], "the frame has no column b"),
        ({"a": [1]}, ["a"], "all columns are partitions"),
        ({"a": [1]}, [1], r"partition_columns is a list of columns"),
        ({"a": [1]}, 1, r"partition_columns is a list of columns"),
        ({"a": [1], "b": [2]}, "a", r"give \['order_date'\], say, not 'a'"),
        ({"a": ["", None], "b": [1, 2]}, ["a"], "empty texts"),
        ({"a": [datetime(2026, 1, 1, tzinfo=UTC)], "b": [1]}, ["a"], r"a \(timestamp\) cannot be a partition"),
        ({"a": [1], "A": [2]}, None, "differ only in case"),
        ({"a": pd.Series([1, "x"], dtype=object)}, None, "values of several types"),
        ({"a": [None]}, None, "neither a value nor a type"),
        ({"Filename": [1]}, None, "Filename .* rename the column"),
        ({"a": pd.to_datetime(["2026-01-01 00:00:00.000000001"]).astype("datetime64[ns]")}, None, "microseconds"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_told(
    manager: DeltaLakeManager, tmp_path: Path, frame: Any, partitions: Any, message: str
) -> None:
    with pytest.raises(NotebookError, match=message):
        manager.create_or_update_table(pd.DataFrame(frame), "t", partitions)
    assert not (tmp_path / "bronze" / "t" / "_delta_log").exists()


@pytest.mark.parametrize(
    "dtype",
    [
        pl.List(pl.UInt32),
        pl.Struct({"a": pl.UInt64}),
        pl.List(pl.Struct({"a": pl.Datetime("ns")})),
        pl.Array(pl.UInt8, 1),
    ],
    ids=str,
)
def test_what_is_nested_has_types_of_delta(manager: DeltaLakeManager, tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(NotebookError, match=r"column a has .* inside, which Delta does not know: cast it"):
        manager.create_or_update_table(pl.DataFrame(schema={"a": dtype}), "t")
    assert not (tmp_path / "bronze" / "t" / "_delta_log").exists()


def test_a_table_that_cannot_be_read_can_be_overwritten(
    manager: DeltaLakeManager, tmp_path: Path, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.create_or_update_table(pl.DataFrame({"id": [1]}), "t")
    monkeypatch.setattr(Table, "scan", lambda _: "delta_scan('nowhere')")
    manager.create_or_update_table(pl.DataFrame({"name": ["y"]}), "t", mode="overwrite")
    assert stored(tmp_path / "bronze" / "t") == [{"name": "y"}]


def test_what_delta_has_no_type_for_is_told(manager: DeltaLakeManager) -> None:
    with pytest.raises(LakeError, match="Delta cannot store"):
        manager.create_or_update_table(pl.DataFrame({"a": [timedelta(1)]}), "t")


def test_a_table_keeps_its_columns_types_and_partitions(
    manager: DeltaLakeManager, make: Make, tmp_path: Path, stored: Any
) -> None:
    manager.create_or_update_table(make({"id": [1], "part": ["a"]}), "t", ["part"])
    with pytest.raises(NotebookError, match=r"column id has 'x', a VARCHAR, .* BIGINT: .*\{'dtypes': \{'id': \.\.\."):
        manager.create_or_update_table(make({"id": ["x"], "part": ["a"]}), "t")
    for frame, message in (
        ({"id": [1], "part": ["a"], "new": [1]}, "column new is new"),
        ({"part": ["a"], "ID": [1]}, "column id is missing"),
    ):
        with pytest.raises(SchemaMismatchError, match=message):
            manager.create_or_update_table(make(frame), "t")
    with pytest.raises(NotebookError, match="has no column part, which is a partition"):
        manager.create_or_update_table(make({"id": [1]}), "t", mode="overwrite")
    with pytest.raises(NotebookError, match="is partitioned by part, not by id"):
        manager.create_or_update_table(make({"id": [1], "part": ["a"]}), "t", ["id"])
    with pytest.raises(NotebookError, match="mode is 'upsert': give 'append' or 'overwrite'"):
        manager.create_or_update_table(make({"id": [1], "part": ["a"]}), "t", mode="upsert")  # type: ignore[arg-type]
    assert stored(tmp_path / "bronze" / "t") == [{"id": 1, "part": "a"}]
    # A column without any value has no type of its own.
    manager.create_or_update_table(make({"id": [None], "part": ["b"]}), "t")
    assert {row["id"] for row in stored(tmp_path / "bronze" / "t")} == {1, None}


def test_values_that_fit_are_cast_to_the_types_of_the_table(
    manager: DeltaLakeManager, tmp_path: Path, stored: Any
) -> None:
    manager.create_or_update_table(pl.DataFrame({"id": [2], "n": [Decimal("1.25")], "price": [2.5]}), "t")
    later = pd.DataFrame({"id": [3.0, None], "n": [Decimal("1.5"), None], "price": np.array([2, 3], dtype="int16")})
    assert manager.create_or_update_table(later, "t") == 2
    assert manager.create_or_update_table(later.astype({"id": "Int64"}), "t") == 2  # the same content
    assert sorted(stored(tmp_path / "bronze" / "t"), key=lambda row: row["price"]) == [
        {"id": 3, "n": Decimal("1.50"), "price": 2}, {"id": 2, "n": Decimal("1.25"), "price": 2.5},
        {"id": None, "n": None, "price": 3},
    ]  # fmt: skip
    with pytest.raises(NotebookError, match=r"column id has '2\.5', a DOUBLE, which does not fit the table's BIGINT"):
        manager.create_or_update_table(later.assign(id=2.5), "t")
    with pytest.raises(NotebookError, match=r"column n has .*STRUCT.*the table's DECIMAL"):
        manager.create_or_update_table(later.assign(n=[{"a": 1}, None]), "t")
    manager.create_or_update_table(later.assign(id=2.5), "t", mode="overwrite")
    assert kinds(tmp_path / "bronze" / "t")["id"] == "double"


def test_objects_that_lack_a_key_are_structs(manager: DeltaLakeManager, tmp_path: Path, stored: Any) -> None:
    manager.create_or_update_table(pd.DataFrame({"x": [{"a": 1}, {"a": 2, "b": np.float64(0.5)}]}), "t")
    assert [row["x"] for row in stored(tmp_path / "bronze" / "t")] == [{"a": 1, "b": None}, {"a": 2, "b": 0.5}]


def test_column_order_is_no_content(manager: DeltaLakeManager) -> None:
    frame = pl.DataFrame({"a": [1], "b": ["x"]})
    assert manager.create_or_update_table(frame, "t") == 1
    assert manager.create_or_update_table(frame.select("b", "a"), "t") == 1


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lake_at("lake").uri == str(tmp_path / "lake") == lake_at(f"file://{tmp_path}/lake").uri
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found = lake_at("s3://bucket/lake/")
    assert (found.uri, found.storage_options["secret_access_key"]) == ("s3://bucket/lake", "hunter2")
    assert "hunter2" not in repr(found)
    assert lake_at(Path("lake")).uri == str(tmp_path / "lake")
    others: list[Any] = [
        "gs://x", "s3://", "s3:///x", "s3:/x", Path("s3://x"), "s3a://x", "file:x", "file://x", "a:/x", "", " ", None, 1
    ]  # fmt: skip
    for other in others:
        with pytest.raises(NotebookError, match=r"cannot hold tables: give a folder, or s3://bucket/prefix"):
            DeltaLakeManager(other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [None, 1, ""])
def test_a_table_has_a_name(manager: DeltaLakeManager, name: Any) -> None:
    with pytest.raises(NotebookError, match=f"table_name is {name!r}: give"):
        manager.create_or_update_table(pl.DataFrame({"a": [1]}), name)


def test_an_append_that_meets_an_overwrite_is_not_lost(
    manager: DeltaLakeManager, tmp_path: Path, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.create_or_update_table(pl.DataFrame({"id": [1]}), "t")
    append = Table.append

    def meets(*args: Any, **options: Any) -> int | None:
        monkeypatch.setattr(Table, "append", append)
        manager.create_or_update_table(pl.DataFrame({"id": [2]}), "t", mode="overwrite")
        return append(*args, **options)

    monkeypatch.setattr(Table, "append", meets)
    manager.create_or_update_table(pl.DataFrame({"id": [3]}), "t")
    assert sorted(row["id"] for row in stored(tmp_path / "bronze" / "t")) == [2, 3]
