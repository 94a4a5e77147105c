"""Dead letters of row tables tried again: the same rows as a reading under the mended contract, whatever is killed."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from killing import Killed, kill_at_commit
from pulled import listed
from records import DAY, NEXT, Mended, World

from pipeline_assets.ingest.batch import replay as replays
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.batch.replay import Replayed, would_fit
from pipeline_assets.ingest.batch.replay_pulls import row_source as pull_rows
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan, RowSource
from pipeline_assets.ingest.batch.watermark import at as at_position
from pipeline_assets.ingest.dead_letters import settled
from pipeline_assets.ingest.dead_letters.discard import discard
from pipeline_assets.ingest.dead_letters.select import Selection
from pipeline_assets.ingest.files.replay import row_source
from pipeline_assets.lake import CommitConflictError, Lake, Table, held_days


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.con.close()


RECORDS: list[dict[str, Any]] = [
    {"id": number, "note": note, "amount": amount, "at": at, "day": day, "ratio": ratio, "tags": tags, "data": data,
     "Un Known": unknown}
    for number, (note, amount, at, day, ratio, tags, data, unknown) in enumerate([
        ("a", "1.50", "2026-01-05 01:02:03.123456+00", "2026-01-05", 0.1, ["x"], b"plain", 1),
        (None, "-9999999999999999.99", "2026-01-05 01:02:03.1+00", "0001-01-01", 1e300, ["é", None, ""], b"\xff", 2),
        (None, None, None, None, None, None, None, None),
        (None, "0.00", "9999-12-31 23:59:59.999999+00", "9999-12-31", float("nan"), [], b" \\x41\n", 3),
        (None, "3.10", "2026-01-05 00:00:00+00", "2026-02-28", float("inf"), ['"', "\\", ","], "é 😀".encode(), 4),
        (None, "7", "1969-12-31 23:59:59.000001+00", "1970-01-01", 5e-324, ["null"], b"", 5),
    ], 1)
]  # fmt: skip


def _typed() -> pl.DataFrame:
    frame = pl.DataFrame(RECORDS, schema_overrides={"tags": pl.List(pl.String), "data": pl.Binary})
    return frame.with_columns(
        pl.col("amount").cast(pl.Decimal(18, 2)),
        pl.col("at").str.to_datetime(time_zone="UTC"),
        pl.col("day").str.to_date(),
    )


def _content(kind: str, tmp_path: Path) -> bytes:
    if kind in ("parquet", "avro"):
        frame, path = _typed(), tmp_path / "typed"
        if kind == "avro":  # polars writes no decimals, and no time zones, into it
            frame = frame.with_columns(pl.col("amount").cast(pl.String), pl.col("at").dt.replace_time_zone(None))
            frame.write_avro(path, name="row")
        else:
            frame.write_parquet(path)
        return path.read_bytes()
    plain: list[dict[str, Any]] = []  # text holds no bytes but those of text
    for record in RECORDS:
        ratio = None if record["ratio"] is None else repr(record["ratio"])
        plain.append({**record, "data": None if record["data"] is None else "plain", "ratio": ratio})
    if kind == "csv":
        out = StringIO()
        writer = csv.DictWriter(out, fieldnames=list(plain[0]))
        writer.writeheader()
        writer.writerows({**record, "tags": ""} for record in plain)
        return out.getvalue().encode()
    if kind == "jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in plain).encode()
    return json.dumps(plain, indent=1).encode()


@pytest.mark.parametrize("evolution", [False, True])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet", "avro"])
def test_replayed_rows_are_those_of_landing_the_file_anew(tmp_path: Path, kind: str, evolution: bool) -> None:
    content = _content(kind, tmp_path)
    before = World(tmp_path, schema_evolution=evolution)
    before.land(f"2026-01-05/a.{kind}", content)
    before.ingest()
    assert len(before.rows()) == 1
    held = len(before.waiting())
    assert held == 5
    after = before.under(Mended, schema_evolution=evolution)
    anew = World(tmp_path, "anew", Mended, schema_evolution=evolution)
    anew.ingest()
    replayed = after.replay()
    assert after.rows() == anew.rows()
    assert [line for line, *_ in after.waiting()] == [line for line, *_ in anew.waiting()]
    assert (replayed.tried, replayed.rows, replayed.days) == (held, len(anew.rows()) - 1, {DAY})
    assert replayed.rows >= 3
    assert after.replay().rows == 0


def test_what_does_not_fit_stays_as_it_is_and_the_rest_moves_to_its_place(world: World) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\nx,\n4,\nx\n")
    world.ingest()
    which = "WHERE _source.line IN (4, 6) ORDER BY _source.line"
    before = world.con.execute(f"SELECT * FROM {world.letters.scan()} {which}").fetchall()
    world = world.under(Mended)
    found = world.replay()
    assert (found.tried, found.rows, found.not_replayable, found.passed_over) == (3, 2, 1, 0)
    assert world.con.execute(f"SELECT * FROM {world.letters.scan()} ORDER BY _source.line").fetchall() == before
    assert world.rows("id, _source.line, _source.file") == [
        repr((number, line, "in/2026-01-05/a.csv")) for number, line in ((1, 2), (2, 3), (4, 5))
    ]
    version = world.letters.open().version(), world.bronze.open().version()
    assert world.replay().rows == 0
    assert (world.letters.open().version(), world.bronze.open().version()) == version, "nothing new is no commit"


def test_a_corrected_delivery_replaces_replayed_rows_with_the_others(world: World) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\n")
    world.ingest()
    world = world.under(Mended)
    world.replay()
    world.land("2026-01-05/a.csv", "id,note\n1,a\n3,b\n5,c\n")
    world.ingest()
    assert world.rows("id") == ["(1,)", "(3,)", "(5,)"]


def test_dead_letters_of_a_content_that_went_are_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\n")
    world.ingest()
    world.land("2026-01-05/a.csv", "id,note\n1,a\n3,b\n4,\n")
    with monkeypatch.context() as patched:  # killed after the rows, before the dead letters of the former content went
        kill_at_commit(patched, 4)
        with pytest.raises(Killed):
            world.ingest()
    world = world.under(Mended)
    found = world.replay()
    assert (found.tried, found.rows, found.passed_over) == (2, 1, 1)
    assert world.rows("id") == ["(1,)", "(3,)", "(4,)"]


def test_the_selection_says_which_are_tried(world: World) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\nx,\n")
    world.land("2026-01-06/b.csv", "id,note\n4,\n5,\n6,\n")
    world.ingest()
    world = world.under(Mended)
    (batch,) = {batch for batch, file in world.waiting("_batch_id, _source.file") if file.endswith("a.csv")}
    assert would_fit(world.lake, world.con, row_source(world.source), Selection()) == 4
    assert world.replay(Selection(batch=batch, reason="no such")).tried == 0
    assert world.replay(Selection(batch=batch, reason="required: note")).rows == 1
    assert world.replay(Selection(day=NEXT, limit=2)).rows == 2
    assert world.waiting() == [
        (4, "cast: id: 'x' is not BIGINT; required: note is missing"),
        (4, "required: note is missing"),
    ]
    masked = "cast: id: '...' is not BIGINT; required: note is missing"
    assert world.replay(Selection(reason=masked)).tried == 1
    assert world.replay().rows == 1


def test_the_next_audit_publishes_a_day_whose_dead_letters_are_rows_now(world: World) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\n")
    world.ingest()
    assert world.audit().held == {DAY}
    world = world.under(Mended)
    world.replay()
    found = world.audit()
    assert (found.held, held_days(world.bronze), found.counts[DAY].rows, found.mismatches) == (set(), set(), 2, [])


def test_the_next_audit_publishes_a_day_whose_dead_letters_were_discarded(world: World) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\n3,\n")
    world.ingest()
    assert world.audit(0.5).held == {DAY}
    assert discard(world.con, world.bronze, Selection(limit=1)).dead_letters == 1
    found = world.audit(0.5)
    assert (found.held, found.mismatches) == (set(), [])
    assert [found.counts[DAY].records_in, found.counts[DAY].rows, found.counts[DAY].dead_letters] == [3, 1, 1]
    assert discard(world.con, world.bronze).records == 1
    assert world.waiting() == []
    world.audit(0)
    assert world.under(Mended).replay().tried == 0, "what was discarded is not replayed"


def test_a_discard_that_was_killed_long_ago_is_not_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a killed discard the bronze table hears later, however many batches came in between."""
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\n")
    world.ingest()
    assert world.audit(0).held == {DAY}
    with monkeypatch.context() as patched:
        kill_at_commit(patched, 1)
        with pytest.raises(Killed):
            discard(world.con, world.bronze)
    world.land("2026-01-06/b.csv", "id,note\n3,c\n4,\n")
    world.ingest()
    monkeypatch.setattr(settled, "_COMMITS_LOOKED_AT", 1)
    assert discard(world.con, world.bronze).days == {NEXT}
    assert (world.audit(0).held, held_days(world.bronze)) == (set(), set())


def test_who_is_overtaken_plans_anew_and_gives_up_at_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\n")
    world.ingest()
    world = world.under(Mended)
    really, overtaken = Table.write, 0

    def overtaking(table: Table, *args: Any, **options: Any) -> Any:
        nonlocal overtaken
        found = really(table, *args, **options)
        if table.name.startswith("bronze."):
            overtaken += 1
            table.commit(world.con, [], positions={replays.REPLAYS: 100 + overtaken})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Table, "write", overtaking)
        with pytest.raises(CommitConflictError, match=r"bronze\.t__records"):
            world.replay()
    assert (overtaken, world.rows("id"), len(world.waiting())) == (8, ["(1,)"], 1)
    assert world.replay().rows == 1


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("at", range(6))
def test_killed_at_any_commit_the_next_replay_ends_with_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, audited: bool
) -> None:
    """Rows, dead letters, and the word of them: each before and after; with and without an audit in between."""
    world = World(tmp_path)
    world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\nx,\n4,\n")
    world.land("2026-01-06/b.jsonl", '{"id": 5}\n{"id": 6, "note": "b"}\n{"id": "x"}\n{')
    world.ingest()
    world.audit(0.9)
    world = world.under(Mended)
    with monkeypatch.context() as patched:
        kill_at_commit(patched, at)
        with pytest.raises(Killed):
            world.replay()
    if audited:
        world.audit(0.4)
    world.replay()
    found = world.audit(0.4)
    assert world.rows("id") == [f"({number},)" for number in (1, 2, 4, 5, 6)]
    assert [line for (line,) in world.waiting("_source.line")] == [3, 4, 4]
    assert (found.mismatches, found.held, held_days(world.bronze)) == ([], {NEXT}, {NEXT})
    world.con.close()


def pulled(number: int, note: str | None, amount: str = "1.50") -> tuple[object, ...]:
    return number, amount, note, "2026-01-05 00:00:00+00"


class Payments(pa.DataFrameModel):
    """A payment with a note."""

    payment_id: int = pa.Field()
    amount: Annotated[pl.Decimal, 12, 2] = pa.Field()
    note: str = pa.Field()

    class Config:
        """Not of the registry."""

        name = "test.payments_with_note"


class AnyPayments(Payments):
    """A payment."""

    note: str = pa.Field(nullable=True)


class Bank:
    """A lake, and pulls of a list of payments into it, each a batch."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(str(folder / "lake"))
        self.con = self.lake.connect(threads=1)
        self.bronze = Table(self.lake, "bronze.bank__payments")

    def pull(self, at: int, *records: tuple[object, ...], name: str = "incremental", is_killed: bool = False) -> None:
        before, end = (self.bronze.exists() and self.bronze.position("extracted")) or None, moment(at)
        marked = {"full": end} if name == "full" else {f"window:{DAY}": end} if name != "incremental" else {}
        plan = RowPlan(
            name=name, start=str(before or ""), end=str(end), partition_date=DAY, extracted_at=at_position(end),
            expect={"extracted": before},
            positions={"extracted": end, **marked}, replaces=None if name == "incremental" else "TRUE",
            mark=next(iter(marked), None),
        )  # fmt: skip
        source = RowSource("bank__payments", Payments, ("payment_id",))
        with RowBatch(self.lake, self.con, source, plan) as pull:
            pull.add(listed(*records), origin="public.payments", counted=lambda: len(records))
            if is_killed:  # between its dead letters and its rows
                with pytest.MonkeyPatch.context() as patched:
                    kill_at_commit(patched, 2)
                    with pytest.raises(Killed):
                        pull.commit()
            else:
                pull.commit()

    def replay(self) -> Replayed:
        source = RowSource("bank__payments", AnyPayments, ("payment_id",))
        return replays.replay(self.lake, self.con, pull_rows(source))

    def rows(self, columns: str = "payment_id, amount::VARCHAR, note") -> list[Any]:
        return self.con.execute(f"SELECT {columns} FROM {self.bronze.scan()} ORDER BY ALL").fetchall()


def moment(number: int) -> int:
    return 1_767_600_000_000_000 + number


@pytest.mark.parametrize("name", ["incremental", "full", f"window {DAY}"])
def test_dead_letters_of_pulls_become_rows_of_their_own_pull(tmp_path: Path, name: str) -> None:
    bank = Bank(tmp_path)
    bank.pull(1, pulled(1, "a"), pulled(2, None), pulled(3, None, "x"), name=name)
    found = bank.replay()
    assert (found.tried, found.rows, found.passed_over) == (2, 1, 0)
    assert bank.rows() == [(1, "1.50", "a"), (2, "1.50", None)]
    place = "_source.file, _batch_id, _extracted_at, _partition_date, _deleted"
    assert len(set(bank.rows(place))) == 1, "of one pull"
    assert audit(bank.con, bank.bronze, AnyPayments, failure_budget=1, days=(DAY, DAY)).mismatches == []
    bank.con.close()


def test_a_version_that_was_read_later_still_counts_after_a_replay(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    bank.pull(1, pulled(2, None, "1.00"))
    bank.pull(2, pulled(2, "b", "2.00"))
    assert bank.replay().rows == 1
    newest = "SELECT max_by(amount::VARCHAR, _extracted_at) FROM " + bank.bronze.scan()
    assert bank.con.execute(newest).fetchall() == [("2.00",)]
    bank.con.close()


@pytest.mark.parametrize("name", ["incremental", "full", f"window {DAY}"])
def test_dead_letters_of_a_pull_that_was_killed_are_left_to_the_next_one(tmp_path: Path, name: str) -> None:
    bank = Bank(tmp_path)
    bank.pull(1, pulled(1, "a"), name=name)
    bank.pull(2, pulled(2, None), name=name, is_killed=True)
    assert (bank.replay().passed_over, bank.rows()) == (1, [(1, "1.50", "a")])
    bank.pull(3, pulled(2, None), name=name)
    assert (bank.replay().rows, (2, "1.50", None) in bank.rows(), bank.replay().tried) == (1, True, 0)
    bank.con.close()
