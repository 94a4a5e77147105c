"""Silver state and history of any order, repetition and split of change events: those of the events in order.

The truth is `Truth`, plain Python that takes events one by one. PIPELINE_TEST_EXAMPLES asks for more examples;
`make test-long` asks for 60.
"""

import json
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from change_models import HISTORY, STATE, ChangeModels, event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_assets.dbt_plugin import changes
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings

pytestmark = pytest.mark.slow

UNKNOWN = object()
MICROSECOND = timedelta(microseconds=1)


class Things(pa.DataFrameModel):
    """The source's row: two columns of key, two of content, and since when it is so."""

    shelf: pl.Int64
    code: pl.String
    text: pl.String = pa.Field(nullable=True)
    number: pl.Int64 = pa.Field(nullable=True)
    since: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


COLUMNS = ("text", "number", "since", "note")  # the contract's, and one that the source added
KEYS = [{"shelf": shelf, "code": code} for shelf in (1, 12) for code in ("a", "b")]


class Truth:
    """What a table's rows were, from events one by one."""

    def __init__(self, events: list[ChangeEvent]) -> None:
        self.rows: dict[str, dict[str, Any] | None] = {}
        self.last: dict[str, ChangeEvent] = {}
        self.versions: dict[str, list[tuple[datetime, dict[str, Any] | None, ChangeEvent]]] = {}
        gone: dict[tuple[int, int], dict[str, Any] | None] = {}
        for one in sorted(
            {(e.commit_lsn, e.tx_seq): e for e in events}.values(), key=lambda e: (e.commit_lsn, e.tx_seq)
        ):
            if one.op == "d":
                gone[one.commit_lsn, one.lsn] = self.rows.get(str(one.key))
            for key in [*self.rows] if one.op == "t" else [str(one.key)]:
                before = gone.get((one.commit_lsn, one.lsn)) if one.op == "c" else self.rows.get(key)
                self._take(key, one, None if one.op == "r" else before)

    def _take(self, key: str, one: ChangeEvent, before: dict[str, Any] | None) -> None:
        row = None
        if one.after is not None:
            after = json.loads(one.after)
            row = {
                name: (before or {}).get(name, UNKNOWN) if name in one.unavailable else _value(name, after.get(name))
                for name in COLUMNS
            }
        self.rows[key], self.last[key] = row, one
        committed = _moment(one)
        said = committed if row is None or row["since"] in (None, UNKNOWN) else row["since"]
        kept = self.versions.setdefault(key, [])
        if kept and kept[-1][2].op == "t" and kept[-1][2].commit_lsn == one.commit_lsn:
            kept.pop()  # as in a snapshot, which begins with a truncation
        kept.append((said, row, one))

    def state(self) -> list[tuple[Any, ...]]:
        return sorted(
            (
                (
                    *json.loads(key).values(),
                    *_shown(row),
                    row is None,
                    _unknown(row),
                    self.last[key].commit_lsn,
                    self.last[key].tx_seq,
                    _moment(self.last[key]),
                    _moment(self.last[key]).date(),
                    json.loads(key)["shelf"] // 10,
                )
                for key, row in self.rows.items()
            ),
            key=repr,
        )

    def history(self) -> list[tuple[Any, ...]]:
        return sorted((row for key in self.versions for row in self._history(key)), key=repr)

    def _history(self, key: str) -> Iterator[tuple[Any, ...]]:
        kept = self.versions[key]
        clocks = accumulate((said for said, _, _ in kept), max)
        different: list[tuple[datetime, dict[str, Any] | None, ChangeEvent]] = []
        for at, (clock, (_, row, one)) in enumerate(zip(clocks, kept, strict=True)):
            if at == 0 or _content(row) != _content(kept[at - 1][1]):
                begin = max(clock, different[-1][0] + MICROSECOND) if different else clock
                different.append((begin, row, one))
        for (begin, row, opened), following in zip(different, [*different[1:], None], strict=True):
            changed = _moment(following[2] if following else self.last[key])
            yield (
                *json.loads(key).values(),
                *_shown(row),
                begin,
                following[0] if following else None,
                following is None and row is not None,
                row is None,
                _unknown(row),
                opened.commit_lsn,
                opened.tx_seq,
                _moment(opened),
                None if following else max(said for said, _, _ in kept),
                changed.date(),
                json.loads(key)["shelf"] // 10,
            )


def _value(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if name == "since" and value else value


def _shown(row: dict[str, Any] | None) -> list[Any]:
    return [None if row is None or row[name] is UNKNOWN else row[name] for name in COLUMNS]


def _unknown(row: dict[str, Any] | None) -> list[str]:
    return sorted(name for name in COLUMNS if row and row[name] is UNKNOWN)


def _content(row: dict[str, Any] | None) -> Any:
    return (row is None, _shown(row), _unknown(row))


def _moment(one: ChangeEvent) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one.ts_us)


def made_up(chance: random.Random) -> list[ChangeEvent]:
    """Transactions on a few keys: every op, key changes, columns left out, clocks that go back, impossible ones too."""
    events: list[ChangeEvent] = []
    for commit in range(1, chance.randint(2, 14)):
        at, ts, seq = commit * 10, commit * 10 + chance.choice([0, 0, 0, -15, 30]), 0
        for _ in range(chance.choice([1, 1, 2, 3])):
            seq, op = seq + 1, chance.choices("rcudtm", [2, 3, 8, 3, 0.5, 2])[0]
            key = chance.choice(KEYS)
            after: dict[str, Any] = {"text": chance.choice(["x", "y", None]), "number": chance.choice([1, 2])}
            after["since"] = chance.choice([None, f"2026-01-0{chance.randint(1, 6)} 00:00:00+00"])
            if commit > 6 and chance.random() < 0.6:
                after["note"] = chance.choice(["n", "", None])
            left_out = [name for name in after if chance.random() < 0.3] if op in "um" else []
            after = {name: value for name, value in after.items() if name not in left_out}
            options: dict[str, Any] = {"at": at, "ts": ts, "unavailable": left_out}
            if op == "m":  # an update of the key
                other = chance.choice([one for one in KEYS if one != key])
                events.append(event("d", key, at=at, ts=ts, seq=seq, lsn=at * 1000 + seq))
                seq += 1
                events.append(event("c", other, after, seq=seq, lsn=at * 1000 + seq - 1, **options))
            elif op in "dt":
                events.append(event(op, None if op == "t" else key, at=at, ts=ts, seq=seq))
            else:
                events.append(event(op, key, after, seq=seq, **options))
    return events


def scattered(chance: random.Random, events: list[ChangeEvent]) -> list[list[ChangeEvent]]:
    """The events in batches: in order, nearly, or not at all; some of them more than once."""
    found = [*events, *chance.sample(events, min(len(events), chance.choice([0, 0, 3])))]
    if chance.random() < 0.7:
        disorder = chance.choice([2, 6, 100])
        found = [one for _, one in sorted(enumerate(found), key=lambda pair: pair[0] + chance.random() * disorder)]
    cuts = sorted(chance.sample(range(1, len(found)), min(len(found) - 1, chance.randint(0, 4))))
    return [found[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(found)], strict=True)]


def rows_of(models: ChangeModels, name: str) -> list[tuple[Any, ...]]:
    """All rows, the added column in its place, whether or not the table has come to have it."""
    own = [field.name for field in models.log(name).schema().fields if field.name not in COLUMNS[:3]]
    note = "note" if "note" in own else "NULL AS note"
    rest = ", ".join(column for column in own if column not in ("shelf", "code", "note", "_unavailable"))
    unavailable = "list_sort(_unavailable)"
    rest = rest.replace("_commit_lsn", f"{unavailable}, _commit_lsn", 1)
    return sorted(models.rows(name, f"shelf, code, text, number, since, {note}, {rest}"), key=repr)


@pytest.fixture(autouse=True)
def contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(changes, "contract", lambda name: Things)
    yield
    load_settings.cache_clear()


@settings(
    max_examples=int(os.environ.get("PIPELINE_TEST_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    print_blob=True,
)
@given(seed=st.integers(0, 2**32))
def test_any_order_repetition_and_split_gives_the_rows_of_the_events_in_order(monkeypatch: Any, seed: int) -> None:
    chance = random.Random(seed)
    events = made_up(chance)
    truth = Truth(events)
    with TemporaryDirectory() as folder:
        monkeypatch.setenv("PIPELINE_LAKE_URI", folder)
        load_settings.cache_clear()
        models = ChangeModels(
            Lake(str(Path(folder)), {"provider": "local"}), Things, ["shelf", "code"], "shelf // 10", valid_at="since"
        )
        for batch in scattered(chance, events):
            models.land(*batch)
            if chance.random() < 0.7:
                models.run(*chance.choice([(), (), (STATE,), (HISTORY,)]))
        models.run()
        for _ in range(2):
            assert rows_of(models, STATE) == truth.state()
            assert rows_of(models, HISTORY) == truth.history()
            models.run(full_refresh=True)
        models.close()
