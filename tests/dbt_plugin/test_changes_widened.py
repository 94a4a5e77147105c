"""A contract of a change table whose types become wider: state and history follow, and lose nothing that they hold."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from change_models import HISTORY, STATE, ChangeModels, event

from pipeline_assets.dbt_plugin import changes
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import load_settings


class Narrow(pa.DataFrameModel):
    """A source's row."""

    id: pl.Int32
    number: pl.Int32 = pa.Field(nullable=True)
    price: Annotated[pl.Decimal, 8, 2] = pa.Field(nullable=True)
    day: pl.Date = pa.Field(nullable=True)


class Wide(pa.DataFrameModel):
    """The same with room for more."""

    id: pl.Int64
    number: pl.Int64 = pa.Field(nullable=True)
    price: Annotated[pl.Decimal, 12, 3] = pa.Field(nullable=True)
    day: Annotated[pl.Datetime, "us", None] = pa.Field(nullable=True)


ROW = {"number": 1, "price": "1.25", "day": "2026-01-01"}
LARGE = {"number": 5_000_000_000, "price": "1.125", "day": "2026-01-01 10:00:00"}
COLUMNS = "id::VARCHAR, number::VARCHAR, price::VARCHAR, day::VARCHAR"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChangeModels]]:
    """Makes the models of one lake by a contract."""
    monkeypatch.setenv("PIPELINE_LAKE_URI", str(tmp_path))
    load_settings.cache_clear()
    made: list[ChangeModels] = []

    def models(contract: Any) -> ChangeModels:
        monkeypatch.setattr(changes, "contract", lambda name: contract)
        made.append(ChangeModels(Lake(str(tmp_path), {"provider": "local"}), contract, ["id"], "id // 10"))
        return made[-1]

    yield models
    for one in made:
        one.close()
    load_settings.cache_clear()


@pytest.mark.parametrize("with_event", [True, False])
def test_state_and_history_have_the_wider_types_at_the_next_run(
    make: Callable[..., ChangeModels], with_event: bool
) -> None:
    narrow = make(Narrow)
    narrow.land(event("c", {"id": 1}, ROW, at=1), event("c", {"id": 2}, ROW, at=1, seq=2))
    narrow.run()
    wide = make(Wide)
    if with_event:
        wide.land(event("u", {"id": 1}, LARGE, at=2))
    wide.run()
    small, large = ("1.250", "2026-01-01 00:00:00"), ("1.125", "2026-01-01 10:00:00")
    state = {row[0]: row[1:] for row in wide.rows(STATE, COLUMNS)}
    assert state == {"1": ("5000000000", *large) if with_event else ("1", *small), "2": ("1", *small)}
    versions = wide.rows(HISTORY, f"{COLUMNS}, is_current")
    assert len(versions) == (3 if with_event else 2)
    assert ("1", "1", *small, not with_event) in versions
    kinds = {field.name: str(field.type) for field in wide.log(STATE).schema().fields}
    assert "long" in kinds["id"]
    assert "long" in kinds["number"]
    assert "decimal(12,3)" in kinds["price"].replace(" ", "")


def test_after_widening_partial_and_late_changes_and_deletes_find_their_rows(
    make: Callable[..., ChangeModels],
) -> None:
    narrow = make(Narrow)
    narrow.land(event("c", {"id": 1}, ROW, at=1), event("c", {"id": 2}, ROW, at=1, seq=2))
    narrow.land(event("u", {"id": 1}, {**ROW, "number": 3}, at=5))
    narrow.run()
    wide = make(Wide)
    wide.land(
        event("u", {"id": 1}, {"number": 5_000_000_000, "price": "2.5"}, at=6, unavailable=["day"]),
        event("d", {"id": 2}, at=7),
        event("u", {"id": 1}, {**ROW, "number": 2}, at=3),
    )
    wide.run()
    state = wide.rows(STATE, f"{COLUMNS}, _deleted")
    assert state == [
        ("1", "5000000000", "2.500", "2026-01-01 00:00:00", False),
        ("2", None, None, None, True),
    ]
    versions = wide.con.execute(
        f"SELECT number FROM {Table(wide.lake, HISTORY).scan()} WHERE NOT is_deleted ORDER BY id, valid_from"
    ).fetchall()
    assert versions == [(1,), (2,), (3,), (5_000_000_000,), (1,)]
    rebuilt = wide.rows(STATE), wide.rows(HISTORY)
    wide.run(full_refresh=True)
    assert (wide.rows(STATE), wide.rows(HISTORY)) == rebuilt
