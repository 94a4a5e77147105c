"""What live connectors wrote, to silver: equal to the source's rows as their records tell them, in any landing.

The recordings are of our own tables and changes: Debezium 3.6.1 of PostgreSQL (pg1) and MySQL (my1 plain, my2 with
schema and precise decimals), Debezium 3.5.0 of MariaDB (ma3), Maxwell 1.45.0 (mx1). The truth is a fold of the records
in plain Python: every value is the text that stands in the record.
"""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from change_models import HISTORY, STATE, ChangeModels
from change_records import Shop

from pipeline_assets.contracts.base import Model
from pipeline_assets.dbt_plugin import changes
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Table
from pipeline_assets.settings import load_settings

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parent / "samples"
KEYS = {"comp": ("region", "num"), "nums": ("id",), "alltypes": ("id",), "evolve": ("id",)}
SCHEMAS = {"pg1_w1": "public"}
# Columns whose logical type is made readable: test_logical_types has the truth about them.
CONVERTED = {"c_date", "c_dt", "c_dt3", "c_dt6"}

Row = dict[str, str | None]


class Number(str):
    """A number's own digits."""


def records(recording: str) -> list[bytes]:
    return gzip.decompress((SAMPLES / f"{recording}.jsonl.gz").read_bytes()).splitlines()


def payload(document: Any) -> Any:
    return document["payload"] if isinstance(document, dict) and document.keys() == {"schema", "payload"} else document


def text(value: Any) -> str | None:
    """A value as silver has it: the characters of a string, the JSON of anything else, digit by digit."""
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    return _json(value)


def _json(value: Any) -> str:
    if isinstance(value, Number):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(name)}:{_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def told(recording: str, table: str) -> Iterator[tuple[tuple[str | None, ...], Row | None]]:
    """Each key and its row after each change, None for one that is gone, in the order of the records."""
    for line in records(recording):
        found = json.loads(line, parse_int=Number, parse_float=Number)
        if found.get("table") == table:  # Maxwell
            row = {name: text(value) for name, value in found["data"].items()}
            key = tuple(row[name] for name in KEYS[table])
            old = {name: text(value) for name, value in found.get("old", {}).items()}
            former = tuple(old.get(name, row[name]) for name in KEYS[table])
            if former != key:
                yield former, None
            yield key, None if found["type"] == "delete" else row
            continue
        value = payload(found.get("value"))
        if isinstance(value, dict) and "op" in value and value["source"].get("table") == table:
            row = {name: text(item) for name, item in (value["after"] or value["before"]).items()}
            yield tuple(row[name] for name in KEYS[table]), None if value["op"] == "d" else row


def unfolded(recording: str, table: str) -> tuple[dict[tuple[str | None, ...], Row], int]:
    """The rows at the end, and the number of versions that there were."""
    rows: dict[tuple[str | None, ...], Row | None] = {}
    versions = 0
    for key, row in told(recording, table):
        versions += key not in rows or rows[key] != row
        rows[key] = row
    return {key: row for key, row in rows.items() if row is not None}, versions


def all_text(columns: list[str], keys: tuple[str, ...]) -> Model:
    fields = {name: pa.Field(nullable=name not in keys) for name in columns}
    return type("Text", (pa.DataFrameModel,), {"__annotations__": dict.fromkeys(columns, pl.String), **fields})


@pytest.mark.parametrize("table", ["comp", "nums", "alltypes"])
@pytest.mark.parametrize("recording", ["pg1_w1", "my1_w1", "my2_w1", "ma3_w1", "mx1"])
def test_silver_is_what_the_records_tell(
    recording: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, versions = unfolded(recording, table)
    columns = list(next(iter(expected.values())))
    model, keys = all_text(columns, KEYS[table]), KEYS[table]
    monkeypatch.setenv("PIPELINE_LAKE_URI", str(tmp_path / "lake"))
    load_settings.cache_clear()
    monkeypatch.setattr(changes, "contract", lambda name: model)
    captured = ChangeTable(f"{SCHEMAS.get(recording, 'shop')}.{table}", "db__things", model, keys)
    shop = Shop(tmp_path, captured, record_format="maxwell" if recording == "mx1" else "debezium")
    lines = records(recording)
    random.Random(recording).shuffle(lines)
    for part in range(3):  # lines in any order, some of them twice
        shop.land(f"2026-01-0{part + 1}/a.jsonl", *lines[part::3], *lines[:20])
    shop.ingest()
    assert shop.letters("db__things") == []
    models = ChangeModels(shop.lake, model, list(keys), "0")
    models.run()
    compared = [name for name in columns if recording != "my2_w1" or name not in CONVERTED]
    listed = ", ".join(f'"{name}"' for name in compared)
    scan = models.con.execute(f"SELECT {listed} FROM {Table(shop.lake, STATE).scan()} WHERE NOT _deleted").fetchall()
    found = [dict(zip(compared, row, strict=True)) for row in scan]
    assert {tuple(row[name] for name in keys): row for row in found} == {
        key: {name: row.get(name) for name in compared} for key, row in expected.items()
    }
    (count,) = models.con.execute(f"SELECT count(*) FROM {Table(shop.lake, HISTORY).scan()}").fetchone() or (0,)
    assert count == versions
    models.close()
    load_settings.cache_clear()
