"""Landed change records into several tables: each content once into each table, whatever is killed, repeated or bad."""

import errno
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import pytest
from change_records import CUSTOMERS, DAY, HEARTBEAT, PRODUCTS, Shop, customer, product, unlisted
from deltalake import DeltaTable
from killing import Killed, kill_at_commit

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.cdc.files import ingest as files
from pipeline_assets.ingest.cdc.formats.documents import UNDECLARED
from pipeline_assets.ingest.cdc.table import chunks
from pipeline_assets.ingest.cdc.table.change_table import COMMIT_LSN, ChangeTable
from pipeline_assets.ingest.files.content import Content
from pipeline_assets.ingest.files.listing import fingerprints
from pipeline_assets.ingest.files.plan import position_of
from pipeline_assets.ingest.files.unread import FilesLeftError


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_records_go_to_their_tables_and_all_are_accounted_for(shop: Shop) -> None:
    shop.land(
        "2026-01-02/a.jsonl",
        customer(1, 8), product("A", 16), HEARTBEAT, b"", product("A", 24, op="u"), "null", unlisted(32), "{",
        {"key": {"stock_code": "A"}, "value": product("A", 40, op="d")},
        product("B", 48, op="x"),
    )  # fmt: skip
    report = shop.ingest(run_id="r1")
    assert report.read == ["crm/2026-01-02/a.jsonl"]
    assert shop.rows() == [
        ("c", '{"stock_code":"A"}', 16),
        ("d", '{"stock_code":"A"}', 40),
        ("u", '{"stock_code":"A"}', 24),
    ]
    assert shop.rows("crm__customers", "after->>'name', _source.line, _partition_date") == [("Ann", 1, DAY)]
    assert [reason[:6] for (reason,) in shop.letters()] == ["json: ", UNDECLARED[:6]]
    assert shop.letters("crm__products", "reason, _source.file, _source.line") == [
        ("op: 'x' is unknown, known are r, c, u, d, t", "crm/2026-01-02/a.jsonl", 10)
    ]
    assert (report.records_in, report.skipped, report.present) == (9, 2, 0)
    assert {name: vars(found) for name, found in report.counts.items()} == {
        "crm__customers": {"records_in": 1, "rows": 1, "dead_letters": 0, "duplicates": 0},
        "crm__products": {"records_in": 4, "rows": 3, "dead_letters": 1, "duplicates": 0},
        "crm__unrouted": {"records_in": 2, "rows": 0, "dead_letters": 2, "duplicates": 0},
    }
    assert report.by_day["crm__products"] == {DAY: Counts(rows=3)}
    account = shop.account()
    assert vars(account) == {
        "records_in": 9, "rows": 4, "dead_letters": 3, "replayed": 0, "skipped": 2, "present": 0,
    }  # fmt: skip
    assert account.adds_up


def test_a_run_is_one_commit_a_table_whatever_the_number_of_files(shop: Shop) -> None:
    for n in range(5):
        shop.land(f"2026-01-0{n + 1}/a.jsonl", customer(n, 8 * n + 8), product(f"P{n}", 8 * n + 9))
    shop.ingest(run_id="r1")
    for table in (CUSTOMERS, PRODUCTS):
        opened = table.bronze(shop.lake).open()
        assert [commit["operation"] for commit in opened.history()] == ["WRITE", "CREATE TABLE"]
        facts = opened.history(1)[0]
        assert (facts["records_in"], facts["rows"], facts["dead_letters"], facts["run_id"]) == ("5", "5", "0", "r1")
        assert opened.transaction_version(COMMIT_LSN) == int(facts["commit_lsn_max"])
    assert shop.ingest().unchanged == 5
    assert PRODUCTS.bronze(shop.lake).open().version() == 1, "nothing new, no commit"


def test_each_content_is_read_once_in_whatever_name_and_day_it_comes(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8))
    shop.land("2026-01-02/copy.jsonl", product("A", 8))
    assert (shop.ingest().copies, len(shop.rows())) == (1, 1)
    shop.land("2026-01-05/again.jsonl", product("A", 8))
    os.utime(shop.root / "crm/2026-01-02/a.jsonl", (1, 1))
    report = shop.ingest()
    assert (report.read, report.copies, report.unchanged, len(shop.rows())) == ([], 2, 1, 1)


def test_a_file_that_grew_or_was_corrected_brings_more_events(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8))
    shop.ingest()
    shop.land("2026-01-02/a.jsonl", product("A", 8), product("B", 16), age=60)
    shop.ingest()
    shop.land("2026-01-02/a.jsonl", product("C", 24), age=30)
    shop.ingest()
    assert sorted(lsn for *_, lsn in shop.rows()) == [8, 8, 16, 24]


def test_the_fingerprints_of_the_days_are_the_reference_tables(shop: Shop) -> None:
    path = shop.land("2026-01-02/a.jsonl", product("A", 8))
    shop.land("2026-01-02/new.jsonl", product("B", 8), age=0)
    assert shop.ingest().waiting == 1
    listed = [file for file in shop.source.pattern.walk(shop.root) if file.path.endswith("a.jsonl")]
    prints, _, _ = fingerprints(listed, settle_seconds=0)
    assert shop.source.reference(shop.lake).position(position_of(DAY)) == prints[DAY]
    assert PRODUCTS.bronze(shop.lake).position(position_of(DAY)) is None
    assert path.exists()


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: _zstd(data)], ids=["gzip", "zstd"])
def test_compressed_files_are_recognised_by_content(shop: Shop, pack) -> None:  # type: ignore[no-untyped-def]
    shop.land_bytes("2026-01-02/a.jsonl", pack(json.dumps(product("A", 8)).encode()))
    shop.ingest()
    assert len(shop.rows()) == 1


def _zstd(data: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.compress(data, "zstd", asbytes=True))


def test_a_value_that_does_not_fit_is_a_dead_letter_of_its_table(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8, price="cheap"), product("B", 16))
    shop.ingest()
    assert shop.letters("crm__products") == [("cast: unit_price: 'cheap' is not DECIMAL(12,3)",)]
    assert len(shop.rows()) == 1


def test_a_file_that_cannot_be_read_is_a_dead_letter_until_it_can(shop: Shop) -> None:
    whole = gzip.compress(json.dumps(product("A", 8)).encode() * 100)
    shop.land_bytes("2026-01-02/a.jsonl.gz", whole[:-20])
    shop.land_bytes("2026-01-02/empty.jsonl", b"")
    report = shop.ingest()
    reasons = [reason for (reason,) in shop.letters()]
    assert reasons[0] == "file: empty"
    assert reasons[1].startswith("file: truncated gzip stream")
    text_bytes = len(json.dumps(product("A", 8))) * 100
    assert 0.8 * text_bytes < (report.records_in - 1) * 100 <= text_bytes, "as much as comes out of it"
    assert shop.account().adds_up
    shop.land_bytes("2026-01-02/a.jsonl.gz", gzip.compress(json.dumps(product("A", 8)).encode()), age=60)
    shop.ingest()
    assert [reason for (reason,) in shop.letters()] == ["file: empty"]
    assert len(shop.rows()) == 1


@pytest.mark.parametrize("cut", [10, 60, -12], ids=["early", "in the middle", "within a character"])
def test_a_line_cut_while_the_file_was_written_is_no_dead_letter_once_it_is_whole(shop: Shop, cut: int) -> None:
    first = json.dumps(product("A", 8)).encode() + b"\n"
    text = json.dumps(product("B", 16), ensure_ascii=False).replace("d B", "é" * 20)
    second = text.encode()
    at = text.encode().index("é".encode()) + 1 if cut < 0 else cut
    shop.land_bytes("2026-01-02/a.jsonl", first + second[:at])
    shop.ingest()
    assert len(shop.letters()) == 1
    shop.land_bytes("2026-01-02/a.jsonl", first + second + b"\n{bad\n", age=60)
    shop.ingest()
    assert len(shop.letters()) == 1, "the bad line alone"
    assert shop.letters(columns="raw") == [("{bad",)]
    shop.land_bytes("2026-01-02/a.jsonl", first + second + b"\n{bad\n" + first, age=30)
    shop.ingest()
    assert shop.letters(columns="raw") == [("{bad",)], "once, however often its file grows"
    assert {key for _, key, _ in shop.rows()} == {'{"stock_code":"A"}', '{"stock_code":"B"}'}


def test_a_dead_letter_stays_when_its_file_is_replaced_by_another(shop: Shop) -> None:
    shop.land("2026-01-02/a.jsonl", "{bad")
    shop.ingest()
    shop.land("2026-01-02/a.jsonl", product("A", 8), age=60)
    shop.ingest()
    assert shop.letters(columns="raw") == [("{bad",)]


def test_files_are_read_in_chunks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "RECORDS", 3)
    shop.land("2026-01-02/a.jsonl", *(product(f"P{n}", 8 * n) for n in range(1, 11)), "{")
    shop.land("2026-01-02/b.jsonl", *(customer(n, 8 * n) for n in range(1, 6)))
    shop.ingest()
    assert (len(shop.rows()), len(shop.rows("crm__customers")), len(shop.letters())) == (10, 5, 1)
    assert shop.account().adds_up


@pytest.mark.parametrize("records", [1, 2, 3])
def test_half_a_key_change_is_not_taken_wherever_the_records_are_cut(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    monkeypatch.setattr(chunks, "RECORDS", records)
    change = (product("A", 16, op="d"), product("B", 16, price="cheap"))
    shop.land("2026-01-02/a.jsonl", product("A", 8), *change, product("C", 24))
    shop.ingest()
    assert [(op, lsn) for op, _, lsn in shop.rows()] == [("c", 8), ("c", 24)]
    assert len(shop.letters("crm__products")) == 2


def test_a_file_that_changes_while_it_is_read_waits_and_the_others_do_not(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.land("2026-01-02/a.jsonl", product("A", 8))
    shop.land("2026-01-03/b.jsonl", product("B", 16))
    real, calls = files.lines, 0

    def growing(*args: object) -> Iterator[tuple[int, bytes, bool]]:
        nonlocal calls
        calls += 1
        yield from real(*args)  # type: ignore[arg-type]
        if calls == 1:
            path.write_bytes(path.read_bytes() * 2)

    monkeypatch.setattr(files, "lines", growing)
    report = shop.ingest()
    assert (report.waiting, report.read) == (1, ["crm/2026-01-03/b.jsonl"])
    reference = shop.source.reference(shop.lake)
    assert reference.position(position_of(date(2026, 1, 3))) is not None
    assert reference.position(position_of(DAY)) is None, "its day is not done"
    os.utime(path, (1, 1))
    shop.ingest()
    assert sorted(key for _, key, _ in shop.rows()) == [
        '{"stock_code":"A"}',
        '{"stock_code":"A"}',
        '{"stock_code":"B"}',
    ]


class _Away:
    """Reads the lines of files; of some the storage fails, and it counts how often each is asked for."""

    def __init__(self, *names: str) -> None:
        self.names, self.asked, self._real = names, Counter[str](), files.lines

    def __call__(self, path: Path, content: Content) -> Iterator[tuple[int, bytes, bool]]:
        self.asked[path.name] += 1
        yield from self._real(path, content)
        if path.name in self.names:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_files_that_cannot_be_read_are_all_found_before_the_others_are_read_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        shop.land(f"2026-01-02/{number}.jsonl", product(f"P{number}", 8 * number + 8))
    storage = _Away("0.jsonl", "2.jsonl", "4.jsonl", "6.jsonl")
    monkeypatch.setattr(files, "lines", storage)
    with pytest.raises(FilesLeftError, match=r"4 files .*Input/output error") as found:
        shop.ingest()
    assert {path.rpartition("/")[2] for path in found.value.left} == set(storage.names)
    assert {storage.asked[name] for name in storage.names} == {1}
    assert max(storage.asked.values()) == 2
    assert {key for _, key, _ in shop.rows()} == {f'{{"stock_code":"P{number}"}}' for number in (1, 3, 5, 7)}
    monkeypatch.undo()
    shop.ingest()
    assert len(shop.rows()) == 8
    assert shop.account().adds_up


def test_storage_that_is_away_is_not_asked_for_each_file(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.jsonl" for number in range(9)]
    for number, name in enumerate(names):
        shop.land(f"2026-01-02/{name}", product(f"P{number}", 8 * number + 8))
    storage = _Away(*names)
    monkeypatch.setattr(files, "lines", storage)
    with pytest.raises(FilesLeftError, match=r"9 files .*not tried, because 5 files in a row"):
        shop.ingest()
    assert storage.asked.total() == 5
    assert (shop.rows(), shop.letters()) == ([], [])
    monkeypatch.undo()
    shop.ingest()
    assert len(shop.rows()) == 9


def test_a_table_declared_later_gets_what_is_still_there_and_read_again(shop: Shop, tmp_path: Path) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8), customer(1, 16))
    Shop(tmp_path, CUSTOMERS).ingest()
    later = Shop(tmp_path, CUSTOMERS, PRODUCTS)
    assert later.ingest().unchanged == 1
    os.utime(later.root / "crm/2026-01-02/a.jsonl", (1, 1))
    report = later.ingest()
    assert (report.records_in, report.present) == (2, 1)
    assert (len(later.rows()), len(later.rows("crm__customers"))) == (1, 1)
    assert later.account().adds_up


def test_another_run_that_was_faster_is_noticed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8), customer(1, 16))
    real, calls = files._Run.read, 0

    def overtaken(self: files._Run, batches: Sequence[Batch]) -> None:
        nonlocal calls
        calls += 1
        real(self, batches)
        if calls == 1:
            shop.ingest()

    monkeypatch.setattr(files._Run, "read", overtaken)
    report = shop.ingest()
    assert (report.read, report.unchanged) == ([], 1)
    assert (len(shop.rows()), len(shop.rows("crm__customers"))) == (1, 1)


BAD_AND_GOOD = (
    customer(1, 8), product("A", 16), "{", unlisted(24), product("B", 32, price="x"), customer(2, 40, op="y"),
)  # fmt: skip


@pytest.mark.parametrize("at", range(10))
def test_killed_at_any_commit_the_next_run_ends_with_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    shop, whole = Shop(tmp_path / "killed"), Shop(tmp_path / "whole")
    for each in (shop, whole):
        each.land("2026-01-02/a.jsonl", *BAD_AND_GOOD)
    with monkeypatch.context() as patched:
        kill_at_commit(patched, at)
        with pytest.raises(Killed):
            shop.ingest(run_id="killed")
    for each in (shop, whole):
        each.land("2026-01-03/b.jsonl", product("C", 48), "}")
        each.ingest(run_id="next")
    columns = "op, key, before, after, commit_lsn, tx_seq, _source.line"
    for name in ("crm__customers", "crm__products"):
        assert shop.rows(name, columns) == whole.rows(name, columns)
    for name in ("crm__customers", "crm__products", "crm__unrouted"):
        letters = "reason, raw, _source.file, _source.line"
        assert shop.letters(name, letters) == whole.letters(name, letters)
    assert shop.account().adds_up


def test_two_tables_of_one_name_in_two_schemas_are_two_tables(tmp_path: Path) -> None:
    audit = ChangeTable("audit.products", "crm__audit_products", contract("shop_db.Products"), ("stock_code",))
    shop = Shop(tmp_path, PRODUCTS, audit)
    other = product("A", 8)
    other["source"]["schema"] = "audit"
    shop.land("2026-01-02/a.jsonl", other, product("B", 16))
    shop.ingest()
    assert [key for _, key, _ in shop.rows("crm__audit_products")] == ['{"stock_code":"A"}']
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"B"}']


def test_maxwell_records_too(tmp_path: Path) -> None:
    table = ChangeTable("shop.products", "crm__products", contract("shop_db.Products"), ("stock_code",))
    shop = Shop(tmp_path, table, record_format="maxwell")
    row = {"stock_code": "A", "description": "x", "unit_price": 1.5, "updated_at": "2026-01-02 03:04:05"}
    record = {
        "database": "shop", "table": "products", "type": "insert", "ts": 1767323045, "xid": 1, "commit": True,
        "position": "b.000001:4", "data": row,
    }  # fmt: skip
    moved = record | {
        "type": "update",
        "data": row | {"stock_code": "B"},
        "old": {"stock_code": "A"},
        "position": "b.000001:9",
    }
    shop.land("2026-01-02/a.jsonl", record, moved, {"type": "bootstrap-start", "database": "shop", "table": "products"})
    report = shop.ingest()
    assert [(op, key) for op, key, _ in shop.rows()] == [
        ("c", '{"stock_code":"A"}'), ("c", '{"stock_code":"B"}'), ("d", '{"stock_code":"A"}'),
    ]  # fmt: skip
    assert (report.records_in, report.skipped, shop.account().adds_up) == (4, 1, True)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"op":"c",' + b'"a":{' * 5_000,
        b'{"op":"c","op":"c"}',
        json.dumps(product("A", 10**40)).encode(),
        json.dumps(product("A", 8, price=10**40)).encode(),
        json.dumps(product("A", 8) | {"after": {"stock_code": None}}).encode(),
        b'{"version": 7, "changes": []}',
        b"\x00",
    ],
)  # fmt: skip
def test_no_line_stops_a_run(shop: Shop, line: bytes) -> None:
    shop.land("2026-01-02/a.jsonl", product("A", 8), line, product("B", 16))
    report = shop.ingest()
    assert len(shop.rows()) == 2
    assert len(shop.letters()) + len(shop.letters("crm__products")) == 1
    assert (report.records_in, shop.account().adds_up) == (3, True)


def test_a_plan_reads_the_log_once_however_many_files_there_are(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        shop.land(f"2026-01-02/{number}.jsonl", product(f"P{number}", number + 1))
    shop.ingest()
    shop.land("2026-01-02/new.jsonl", product("new", 100))
    asked: list[str] = []
    really_ask = DeltaTable.transaction_version

    def counting(table: DeltaTable, name: str) -> int | None:
        asked.append(name)
        return really_ask(table, name)

    monkeypatch.setattr(DeltaTable, "transaction_version", counting)
    report = shop.ingest()
    assert (report.unchanged, len(report.read)) == (30, 1)
    assert len(asked) < 20  # one question is one pass over the log: of 3,000 files it was 3,000
