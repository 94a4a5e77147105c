"""Dead letters tried again: what fits now is appended once, the rest stays, whatever is killed in between."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from batches import event_batch
from change_records import CUSTOMERS, DAY, HEARTBEAT, PRODUCTS, Shop, customer, product, unlisted
from deltalake import DeltaTable
from killing import Killed, kill_at_commit
from waiting import ANY_PRICE as MENDED
from waiting import ORDER, ORDERS, PriceAsText

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.audit import compare_last_run
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.files import ingest as files
from pipeline_assets.ingest.cdc.table import chunks
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable, EventBatch
from pipeline_assets.ingest.cdc.table.replay import finish
from pipeline_assets.ingest.dead_letters import settled
from pipeline_assets.ingest.dead_letters.discard import DISCARDED, discard
from pipeline_assets.ingest.dead_letters.select import Selection, groups
from pipeline_assets.ingest.dead_letters.settled import REPLAYED_BATCH, REPLAYED_RECORDS
from pipeline_assets.lake import Table
from pipeline_assets.lake.dead_letters import dead_letter_table


class PriceOrNone(PriceAsText):
    """A product at any price or none."""

    unit_price: pl.String = pa.Field(nullable=True)

    class Config:
        """As the contract of the shop's database."""

        name = "test.price_or_none"
        strict = False


ANY_PRICE_OR_NONE = ChangeTable("public.products", "crm__products", PriceOrNone, ("stock_code",))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def mended(shop: Shop, *tables: ChangeTable) -> Shop:
    """The same lake under another declaration."""
    return Shop(shop.root.parent, *(tables or (CUSTOMERS, MENDED)))


def test_a_dead_letter_that_fits_now_is_appended_and_goes(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16))
    shop.ingest(run_id="r1")
    shop = mended(shop)
    report = shop.replay(run_id="r2")
    assert (report.dead_letters, report.removed, vars(report.counts["crm__products"])) == (
        1, 1, {"records_in": 1, "rows": 1, "dead_letters": 0, "duplicates": 0},
    )  # fmt: skip
    assert shop.letters("crm__products") == []
    origin = "_source.file, _source.line"
    assert shop.rows(columns=f"commit_lsn, after->>'unit_price', {origin}") == [
        (8, "cheap", "crm/2026-01-02/a.jsonl", 1),
        (16, "1.500", "crm/2026-01-02/a.jsonl", 2),
    ]
    commit = MENDED.bronze(shop.lake).open().history(1)[0]
    assert (commit["batch_id"][:7], commit["run_id"], commit["records_in"], commit["rows"]) == (
        "replay:",
        "r2",
        "1",
        "1",
    )
    assert (commit["commit_lsn_min"], commit["commit_lsn_max"]) == ("8", "8")
    assert (commit["batch_id"],) in shop.rows(columns="_batch_id")
    assert shop.replay().dead_letters == 0
    assert shop.account().adds_up


def test_records_of_a_table_that_is_declared_since_move_there(shop: Shop) -> None:
    order = unlisted(24) | {"after": ORDER}
    shop.land("2026-01-02/a.jsonl", customer(1, 8), order, "{")
    shop.ingest()
    assert len(shop.letters()) == 2
    shop = mended(shop, CUSTOMERS, PRODUCTS, ORDERS)
    report = shop.replay()
    assert (report.dead_letters, report.removed) == (2, 2)
    assert shop.rows("crm__orders", "key, _source.line") == [('{"order_id":"o1"}', 2)]
    assert [reason[:5] for (reason,) in shop.letters()] == ["json:"], "what is still no event stays, as a new letter"
    assert shop.letters(columns="_source.file, _source.line, raw") == [("crm/2026-01-02/a.jsonl", 3, "{")]
    assert shop.account().adds_up


def test_letters_of_which_none_fits_are_left_as_they_are(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), "{", unlisted(16))
    shop.ingest()
    names = ("crm__products", "crm__unrouted")
    before = [shop.letters(name, "*") for name in names]
    versions = [DeltaTable(f"{shop.lake.uri}/dead_letters/{name}").version() for name in names]
    report = shop.replay()
    assert (report.dead_letters, report.removed, sum(c.records_in for c in report.counts.values())) == (3, 0, 0)
    assert [shop.letters(name, "*") for name in names] == before
    assert [DeltaTable(f"{shop.lake.uri}/dead_letters/{name}").version() for name in names] == versions


def test_a_file_that_cannot_be_read_weighs_the_same_after_a_replay(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", unlisted(24) | {"after": ORDER})
    shop.land_bytes("2026-01-02/b.jsonl", b"PK\x03\x04" + b"z" * 5000)
    assert shop.ingest().records_in == 51
    shop = mended(shop, CUSTOMERS, PRODUCTS, ORDERS)
    assert shop.replay().removed == 2
    assert shop.letters(columns="_source.file, records") == [("crm/2026-01-02/b.jsonl", 50)]
    assert shop.account().adds_up


def test_without_dead_letters_there_is_nothing_to_do(shop: Shop) -> None:
    assert shop.replay().dead_letters == 0
    shop.land("2026-01-02/a.jsonl", product("A", 8), HEARTBEAT)
    shop.ingest()
    assert shop.replay().dead_letters == 0


def test_events_of_a_slot_that_did_not_fit_are_replayed_as_they_were(shop: Shop) -> None:
    event = ChangeEvent(
        table="public.products",
        op="u",
        key='{"stock_code":"A"}',
        before=None,
        after='{"stock_code":"A","unit_price":"cheap","updated_at":"2026-01-02 03:04:05+00","weight":1.50}',
        unavailable=("description",),
        commit_lsn=800,
        tx_seq=3,
        lsn=720,
        txid=9,
        ts_us=1767323045123456,
        origin="slot s",
        place=720,
    )
    _stage(shop, [event])
    shop = mended(shop)
    shop.replay()
    columns = (
        "op, key, before, after, unavailable, commit_lsn, tx_seq, lsn, txid, epoch_us(ts), _source.file, _source.line"
    )
    assert shop.rows(columns=columns) == [(*event[1:5], ["description"], *event[6:])]


def _key_change(price: object, lsn: int = 720) -> list[ChangeEvent]:
    """Of a slot: product A becomes B."""
    row = f'{{"stock_code":"B","unit_price":"{price}","updated_at":"2026-01-02 03:04:05+00"}}'
    tail = (lsn, 9, 1767323045123456, "slot s", lsn)
    return [
        ChangeEvent("public.products", "d", '{"stock_code":"A"}', '{"stock_code":"A"}', None, (), 800, 3, *tail),
        ChangeEvent("public.products", "c", '{"stock_code":"B"}', None, row, (), 800, 4, *tail),
    ]


def _stage(shop: Shop, events: list[ChangeEvent]) -> None:
    staging = event_batch(shop.con, shop.lake, PRODUCTS, "crm", "slot 800", datetime.now(UTC))
    staging.add(events)
    staging.commit()


def test_a_key_change_is_replayed_as_a_whole_and_in_its_order(shop: Shop) -> None:
    _stage(shop, _key_change("cheap"))
    assert shop.rows() == []
    shop = mended(shop)
    assert shop.replay().removed == 2
    assert shop.rows(columns="commit_lsn, tx_seq, lsn, op, key") == [
        (800, 3, 720, "d", '{"stock_code":"A"}'),
        (800, 4, 720, "c", '{"stock_code":"B"}'),
    ]


@pytest.mark.parametrize("records", [1, 2, 3])
def test_half_a_key_change_is_not_replayed_however_the_letters_are_cut(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    monkeypatch.setattr(chunks, "RECORDS", records)
    _stage(shop, [_event("X"), *_key_change("cheap"), *_key_change("dear", lsn=712), _event("Y")])
    shop.replay()
    assert (shop.rows(), len(shop.letters("crm__products"))) == ([], 6)


def test_maxwells_letters_of_both_kinds(tmp_path: Path) -> None:
    table = ChangeTable("shop.products", "crm__products", contract("shop_db.Products"), ("stock_code",))
    shop = Shop(tmp_path, table, record_format="maxwell")
    record: dict[str, Any] = {
        "database": "shop", "table": "products", "type": "insert", "ts": 1767323045, "commit": True,
        "position": "b.000001:4", "data": {"stock_code": "A", "unit_price": "cheap"},
    }  # fmt: skip
    shop.land("2026-01-02/a.jsonl", record, record | {"position": None}, "{")
    shop.ingest()
    assert len(shop.letters("crm__products")) == 2
    wide = ChangeTable("shop.products", "crm__products", PriceAsText, ("stock_code",))
    shop = Shop(tmp_path, wide, record_format="maxwell")
    shop.replay()
    assert shop.rows(columns="key, commit_lsn") == [('{"stock_code":"A"}', 1 << 40 | 4)]
    assert [reason[:9] for (reason,) in shop.letters("crm__products")] == ["position:"]
    assert len(shop.letters()) == 1


def test_a_batch_that_was_read_again_with_other_letters_is_another_unit(shop: Shop) -> None:
    """A run killed between its letters and its rows leaves letters under a batch id that the next run uses again."""

    def letters(code: str) -> EventBatch:
        staging = event_batch(shop.con, shop.lake, PRODUCTS, "crm", "batch 1", datetime.now(UTC))
        staging.add([_event(code)])
        return staging

    for code in ("A", "B"):
        letters(code).commit()
        mended(shop).replay()
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"A"}', '{"stock_code":"B"}']
    assert shop.letters("crm__products") == []


def _event(code: str) -> ChangeEvent:
    row = f'{{"stock_code":"{code}","unit_price":"cheap","updated_at":"2026-01-02"}}'
    return ChangeEvent(
        "public.products", "c", f'{{"stock_code":"{code}"}}', None, row, (), 8, 1, 8, None, 1767323045000000, "s", 8
    )


@pytest.mark.parametrize("at", range(10))
def test_killed_at_any_commit_the_next_replay_ends_with_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    order = unlisted(24) | {"after": ORDER}
    killed, whole = Shop(tmp_path / "killed"), Shop(tmp_path / "whole")
    for shop in (killed, whole):
        shop.land(
            "2026-01-02/a.jsonl", product("A", 8, price="x"), order, "{", customer(1, 16, op="z"), customer(2, 32)
        )
        shop.ingest()
    killed, whole = (mended(shop, CUSTOMERS, MENDED, ORDERS) for shop in (killed, whole))
    with monkeypatch.context() as patched:
        kill_at_commit(patched, at)
        with pytest.raises(Killed):
            killed.replay()
    for shop in (killed, whole):
        shop.replay()
        assert shop.replay().removed == 0
    tables = ("crm__customers", "crm__products", "crm__orders")
    for name in tables:
        columns = "op, key, after, commit_lsn, _source.line"
        assert killed.rows(name, columns) == whole.rows(name, columns)
    for name in (*tables, "crm__unrouted"):
        columns = "reason, raw, _source.line"
        assert killed.letters(name, columns) == whole.letters(name, columns)
    assert [len(whole.rows(name)) for name in tables] == [1, 1, 1]


def test_a_selection_says_which_batches_are_tried_each_as_a_whole(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16, price="dear"))
    shop.ingest()
    shop.land("2026-01-02/b.jsonl", product("C", 24, price="free"))
    shop.ingest()
    shop = mended(shop)
    assert shop.replay(Selection(reason="no such")).dead_letters == 0
    with monkeypatch.context() as patched:  # killed when the rows are there, and their dead letters are not gone
        kill_at_commit(patched, 1)
        with pytest.raises(Killed):
            shop.replay(Selection(reason="'dear'"))
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"A"}', '{"stock_code":"B"}']
    assert shop.replay(Selection(reason="'cheap'")).removed == 2, "another selection of the same batch doubles nothing"
    assert (len(shop.rows()), len(shop.letters("crm__products"))) == (2, 1)
    assert shop.replay(Selection(day=DAY, limit=1)).removed == 1
    assert (len(shop.rows()), shop.letters("crm__products"), shop.account().adds_up) == (3, [], True)


def test_the_limit_ends_the_list_of_batches(shop: Shop) -> None:
    for number, code in enumerate("ABC"):
        shop.land(f"2026-01-02/{code}.jsonl", product(code, 8 * (number + 1), price="x"))
        shop.ingest()
    shop = mended(shop)
    assert [shop.replay(Selection(limit=2)).removed, shop.replay(Selection(limit=2)).removed] == [2, 1]


def test_dead_letters_that_nobody_needs_are_discarded_and_still_count_among_their_records(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), unlisted(16), "{")
    shop.ingest(run_id="r1")
    for name, count in (("crm__products", 1), ("crm__unrouted", 2)):
        bronze = Table(shop.lake, f"bronze.{name}")
        found = [discard(shop.con, bronze, metadata={"run_id": run_id}).dead_letters for run_id in ("r2", "r3")]
        assert found == [count, 0]
        assert shop.letters(name, "discarded_at IS NOT NULL") == [(True,)] * count
        with shop.lake.connect() as con:
            assert groups(con, dead_letter_table(shop.lake, f"bronze.{name}")) == []
    assert shop.account().adds_up
    log = dead_letter_table(shop.lake, "bronze.crm__products").open()
    assert (log.history(1)[0][DISCARDED], log.history(1)[0]["run_id"]) == ("1", "r2")
    assert mended(shop).replay(run_id="r4").dead_letters == 0


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_replay_that_was_killed_is_finished_before_some_of_its_dead_letters_are_discarded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Without those, the rest of the batch would be another unit, and its events would be appended again."""
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16, price="dear"))
    shop.ingest()
    shop = mended(shop)
    with monkeypatch.context() as patched:
        kill_at_commit(patched, at)
        with pytest.raises(Killed):
            shop.replay()
    finish(shop.lake, shop.con, "crm", shop.source.tables)
    discard(shop.con, MENDED.bronze(shop.lake), Selection(reason="'dear'"))
    shop.replay()
    is_begun = at > 0
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"A"}', '{"stock_code":"B"}'][: 1 + is_begun]
    assert (len(shop.letters("crm__products")), shop.account().adds_up) == (1 - is_begun, True)


def _killed_between_dead_letters_and_rows(shop: Shop, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A replay under a contract that one of two dead letters fits; its unit comes after `replay:` in order."""
    with event_batch(shop.con, shop.lake, PRODUCTS, "crm", "snapshot 0/320", datetime.now(UTC)) as batch:
        batch.add(
            [_event("A"), _event("B")._replace(after='{"stock_code":"B","unit_price":null}', lsn=16, commit_lsn=16)]
        )
        batch.commit()
    with monkeypatch.context() as patched:
        kill_at_commit(patched, at)
        with pytest.raises(Killed):
            mended(shop).replay()
    assert len(shop.letters("crm__products")) == 3, "the rest of the killed replay, beside what it was made of"


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(("then", "rows", "letters"), [(PRODUCTS, 0, 2), (MENDED, 1, 1), (ANY_PRICE_OR_NONE, 2, 0)])
def test_the_rest_of_a_killed_replay_is_not_replayed_beside_what_it_was_made_of(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, at: int, then: ChangeTable, rows: int, letters: int
) -> None:
    _killed_between_dead_letters_and_rows(shop, monkeypatch, at)
    shop = mended(shop, CUSTOMERS, then)
    shop.replay()
    shop.replay()
    assert (len(shop.rows()), len(shop.letters("crm__products"))) == (rows, letters)
    assert compare_last_run(shop.con, then.bronze(shop.lake))[1] == []


@pytest.mark.parametrize("at", [1, 2])
def test_the_rest_of_a_killed_replay_is_not_discarded_beside_what_it_was_made_of(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    _killed_between_dead_letters_and_rows(shop, monkeypatch, at)
    finish(shop.lake, shop.con, "crm", shop.source.tables)
    assert discard(shop.con, PRODUCTS.bronze(shop.lake)).dead_letters == 2
    assert (len(shop.rows()), len(shop.letters("crm__products"))) == (0, 2)


def test_counts_add_up_after_replays_by_hand_which_belong_to_no_run(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16, price=None))
    shop.ingest(run_id="r1")
    mended(shop).replay()
    assert len(shop.letters("crm__products")) == 1
    mended(shop, CUSTOMERS, ANY_PRICE_OR_NONE).replay()
    total, wrong = compare_last_run(shop.con, ANY_PRICE_OR_NONE.bronze(shop.lake))
    assert (total.rows, wrong, shop.letters("crm__products")) == (2, [], [])


def test_a_run_that_commits_dead_letters_meanwhile_costs_a_replay_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), without_key("B", 16))
    shop.ingest()
    shop = mended(shop)
    real = EventBatch.commit

    def overtaken(batch: EventBatch) -> int:
        monkeypatch.setattr(EventBatch, "commit", real)
        shop.land("2026-01-03/b.jsonl", without_key("C", 24))
        with shop.lake.connect() as other:
            day = date(2026, 1, 3)
            files.ingest(shop.lake, other, shop.source, shop.root, day, day, settle_seconds=5)
        return batch.commit()

    monkeypatch.setattr(EventBatch, "commit", overtaken)
    shop.replay()
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"A"}']
    assert len(shop.letters("crm__products")) == 2


def without_key(code: str, lsn: int) -> dict[str, Any]:
    record = product(code, lsn)
    record["after"]["stock_code"] = None
    return record


def test_a_discard_meanwhile_leaves_no_record_that_is_a_row_and_a_dead_letter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16, price="dear"))
    shop.land("2026-01-02/b.jsonl", product("C", 24, price="free"))
    shop.ingest()
    shop = mended(shop)
    discard(shop.con, MENDED.bronze(shop.lake), Selection(reason="'free'"))
    real = EventBatch.commit

    def overtaken(batch: EventBatch) -> int:
        monkeypatch.setattr(EventBatch, "commit", real)
        discard(shop.con, MENDED.bronze(shop.lake), Selection(reason="'dear'"))
        return batch.commit()

    monkeypatch.setattr(EventBatch, "commit", overtaken)
    shop.replay()
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"A"}', '{"stock_code":"B"}']
    assert [("free" in reason) for (reason,) in shop.letters("crm__products")] == [True]


def test_a_replay_of_very_many_batches_looks_like_no_loss(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "_COMMITS_LOOKED_AT", 5)
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16))
    shop.ingest(run_id="r1")
    shop = mended(shop)
    shop.replay(run_id="r1")
    bronze = MENDED.bronze(shop.lake)
    for other in range(6):  # as the replay's next units
        facts = {REPLAYED_BATCH: f"batch {other}", REPLAYED_RECORDS: "1"}
        dead_letter_table(shop.lake, bronze.name).commit(shop.con, [], positions={"unit": other}, metadata=facts)
    total, wrong = compare_last_run(shop.con, bronze)
    assert (total.rows, wrong) == (2, [])
