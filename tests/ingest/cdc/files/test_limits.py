"""Landed change records: a file that is too large, too slow, closed or broken throughout costs itself only."""

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from change_records import Shop, product
from nobody import as_nobody

from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.unread import FilesLeftError


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody can reach; those of pytest are root's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_flood_of_broken_records_is_a_bounded_number_of_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_DEAD_LETTERS", 20)
    shop = Shop(tmp_path)
    shop.land("2026-01-02/a.jsonl", *["{bad"] * 150, *(product(f"P{n}", 8 * n) for n in range(1, 51)))
    shop.land("2026-01-02/b.jsonl", product("Z", 1000), "{bad")
    report = shop.ingest()
    found = shop.letters(columns="records, reason")
    assert len(found) == 22
    assert found[-1] == (130, limits.rest_reason(130))
    assert (report.records_in, len(shop.rows()), shop.account().adds_up) == (202, 51, True)
    shop.land("2026-01-02/a.jsonl", product("P1", 8), age=60)
    shop.ingest()
    assert not [reason for (reason,) in shop.letters() if reason.startswith("limit")], "the file holds them no more"


def test_a_file_that_unpacks_to_more_than_is_declared_is_a_dead_letter(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.source = replace(shop.source, max_unpacked_mb=1)
    line = json.dumps(product("A", 8)).encode() + b"\n"
    shop.land_bytes("2026-01-02/bomb.jsonl.gz", gzip.compress(line * 20_000))
    shop.land("2026-01-03/b.jsonl", product("B", 16))
    report = shop.ingest()
    (reason,) = (reason for (reason,) in shop.letters())
    assert reason.startswith("limit: the gzip stream holds more than max_unpacked_mb = 1")
    assert report.records_in > 1000
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"B"}']
    assert shop.account().adds_up


def test_a_file_that_may_not_be_read_is_left_and_the_others_land(open_folder: Path) -> None:
    shop = Shop(open_folder)
    path = shop.land("2026-01-02/a.jsonl", product("A", 8))
    shop.land("2026-01-03/b.jsonl", product("B", 16))
    with as_nobody(open_folder):
        path.chmod(0)
        try:
            with pytest.raises(FilesLeftError, match=r"Permission denied.*mend permissions") as left:
                shop.ingest()
        finally:
            path.chmod(0o644)
        assert list(left.value.left) == ["crm/2026-01-02/a.jsonl"]
        assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"B"}']
        assert not shop.letters()
        shop.ingest()
    assert len(shop.rows()) == 2


def test_a_file_that_takes_too_long_is_left_and_the_others_land(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.source = replace(shop.source, max_seconds_per_file=1)
    shop.land("2026-01-02/slow.jsonl", *["{bad"] * 300_000)
    shop.land("2026-01-03/b.jsonl", product("B", 16))
    with pytest.raises(FilesLeftError, match=r"slow\.jsonl: limit: .* max_seconds_per_file = 1"):
        shop.ingest()
    assert [key for _, key, _ in shop.rows()] == ['{"stock_code":"B"}']
    assert not shop.letters()


def test_a_record_of_1500_keys_and_one_of_2000_levels_cost_themselves_only(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    wide, deep = product("W", 8), product("D", 16)
    wide["after"] |= {f"extra_{number}": f"value {number}" for number in range(1_500)}
    nested = json.dumps(deep).replace('"d D"', '{"a":' * 2_000 + "1" + "}" * 2_000)
    shop.land("2026-01-02/a.jsonl", wide, nested, product("B", 24))
    shop.ingest()
    assert {'{"stock_code":"W"}', '{"stock_code":"B"}'} <= {key for _, key, _ in shop.rows()}
    assert shop.account().adds_up
    assert len(shop.rows()) + len(shop.letters()) + len(shop.letters("crm__products")) == 3
