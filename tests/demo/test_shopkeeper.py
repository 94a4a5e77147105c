"""The shop of `pipeline dev` is open for as long as the process that opened it, and no longer."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import psycopg
import pytest

from pipeline_assets.demo.crm import PAGE_ROWS
from pipeline_assets.demo.shop import ShopError
from pipeline_assets.demo.shopkeeper import OpenShop

# As `pipeline dev` does: opens the shop and becomes another program.
OPENS_AND_BECOMES_ANOTHER = """
import os, sys
from pathlib import Path
from pipeline_assets.demo.shopkeeper import OpenShop
shop = OpenShop(Path(sys.argv[1]))
shop.stay_open_over_exec()
print(shop.url, flush=True)
os.execv("/bin/sleep", ["sleep", "60"])
"""


def orders(url: str) -> int:
    """How many there are; -1 if the database is not there."""
    try:
        with psycopg.connect(url, connect_timeout=5) as con:
            (found,) = con.execute("SELECT count(*) FROM orders").fetchone() or (0,)
            return int(found)
    except psycopg.OperationalError:
        return -1


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_open_shop_trades_until_it_is_closed(tmp_path: Path) -> None:
    shop = OpenShop(tmp_path)
    wait_for(lambda: orders(shop.url) > 2650)  # beyond the days of the data
    request = Request(f"{shop.crm.url}/v1/accounts", headers={"Authorization": f"Bearer {shop.crm.token}"})
    with urlopen(request, timeout=10) as answer:
        assert len(json.load(answer)["accounts"]) == PAGE_ROWS
    with pytest.raises(ShopError, match="the shop does not open: PostgreSQL already runs on"):
        OpenShop(tmp_path)
    shop.close()
    assert orders(shop.url) == -1


def test_a_killed_process_that_has_become_another_closes_its_shop(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OPENS_AND_BECOMES_ANOTHER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        time.sleep(0.5)
        assert Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep")
        assert orders(url) >= 0
        process.kill()
    wait_for(lambda: orders(url) == -1)
