"""The demo as people run it, twice: all of it, and then nothing that it did before."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import DOCS, blocks

from pipeline_assets.settings import project_root

PIPELINE = str(Path(sys.executable).parent / "pipeline")


def pipeline(state_dir: Path, *words: str) -> str:
    environment = {**os.environ, "PIPELINE_STATE_DIR": str(state_dir), "DAGSTER_HOME": str(project_root())}
    done = subprocess.run([PIPELINE, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def versions(state_dir: Path) -> dict[str, int]:
    found: list[dict[str, Any]] = json.loads(pipeline(state_dir, "tables", "--json"))
    return {table["name"]: table["version"] for table in found}


@pytest.mark.slow
@pytest.mark.integration
def test_the_demo_shows_files_and_changes_and_does_nothing_the_second_time(tmp_path: Path) -> None:
    shown = pipeline(tmp_path, "demo")
    assert re.search(r"bronze.shop__invoice_lines +58,356 +13", shown)
    assert re.search(r"customers +686 +448 +\d+ +26 +1,108 +1,108", shown)
    assert re.search(r"payments +2,175 +5 +2,170 +2,170", shown)
    assert re.search(r"accounts +1,232 +122 +1,108 +1,110", shown)
    assert "2010-12-04 is withheld" in shown
    assert "Revenue of the data: 832,427.990 GBP" in shown
    assert "2010-12-19 changes it by -21.795. In gold: 832,406.195, exactly that." in shown
    assert re.search(r"That took \d+ s", shown)
    (promised,) = (block.text for block in blocks(DOCS / "demo.md") if block.language == "text")
    squeezed = " ".join(shown.split())
    assert [line for line in promised.splitlines() if " ".join(line.split()) not in squeezed] == []
    first = versions(tmp_path)
    assert {"silver.customers", "silver.customers_history", "silver.orders", "gold.daily_sales"} < first.keys()
    password = (tmp_path / "shop_db" / "password").read_text()
    assert password not in shown
    assert password not in (tmp_path / "demo.log").read_text()

    again = pipeline(tmp_path, "demo")
    assert again.count(" 0 transactions") == 2
    assert re.search(r"payments +2,175 +5 +2,170 +2,170", again)
    assert re.search(r"accounts +1,232 +122 +1,108 +1,110", again)
    second = versions(tmp_path)
    # A pull that finds nothing still moves its position, its dead letters' too, and so do those who read the table.
    moved = {name for name in first if second[name] != first[name]}
    pulled = {"shop_db__payments", "crm__accounts"}
    assert moved == {
        *(f"{layer}.{name}" for layer in ("bronze", "dead_letters") for name in pulled),
        *("silver.payments", "silver.accounts", "gold.customer_metrics", "gold.daily_sales"),
    }


ALONE = {
    "files": ("bronze.shop__invoice_lines", "exactly that", ("Out of the database", "Pulled from the database")),
    "changes": ("bronze.shop_db__orders", "Out of the database", ("is withheld", "Pulled from the database")),
    "pulls": ("bronze.crm__accounts", "Pulled from the database", ("is withheld", "Out of the database")),
}


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("way", ALONE)
def test_one_way_alone_shows_its_own_tables_and_no_others(tmp_path: Path, way: str) -> None:
    shown = pipeline(tmp_path, "demo", "--source", way)
    table, told, others = ALONE[way]
    assert table in shown
    assert told in shown
    assert not [text for text in others if text in shown]
    bronze = {name for name in versions(tmp_path) if name.startswith("bronze.")}
    assert table in bronze
    typed = set(re.findall(r"(?:silver|dead_letters)\.\w+(?= limit|\")", shown.partition("What to type next")[2]))
    assert typed <= versions(tmp_path).keys()
    assert not bronze & {found for found, *_ in ALONE.values() if found != table}
