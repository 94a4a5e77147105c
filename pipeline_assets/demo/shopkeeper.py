"""The shop of `pipeline dev`: a process of its own that runs the shop's database and CRM, and trades, slowly.

Its life line is a pipe. It stays open for as long as the process lives that opened the shop, whatever program that has
become by `exec`; when that process ends, be it by SIGKILL, the shop closes and its database stops. A terminal's Ctrl-C
does not reach it.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import psycopg

from pipeline_assets.demo.crm import Crm, open_crm
from pipeline_assets.demo.postgres_server import PostgresServer, PostgresServerError
from pipeline_assets.demo.shop import DEMO_PARQUET, ShopError
from pipeline_assets.demo.shop_db import open_shop, replay, trade


class OpenShop:
    """The shop, open.

    Attributes:
        url: Its database, password included: hand it on, never log it.
        crm: Its CRM; the token is a secret too.
    """

    def __init__(self, folder: Path) -> None:
        """Start the database and, on from where it stopped, the trade.

        Args:
            folder: Where the database lies, or is created.

        Raises:
            ShopError: There is no database to be had. The message says why.
        """
        self._keeper = subprocess.Popen(  # noqa: S603  # no shell, no input of others
            [sys.executable, "-m", "pipeline_assets.demo.shopkeeper", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        said = self._keeper.stdout.readline() if self._keeper.stdout else b""
        answer = json.loads(said or b'{"error": "its process ended without a word"}')
        if "error" in answer:
            self.close()
            raise ShopError(f"the shop does not open: {answer['error']}")
        self.url: str = answer["url"]
        self.crm = Crm(*answer["crm"])

    def stay_open_over_exec(self) -> None:
        """Hand the life line on to the program that this process becomes next."""
        if self._keeper.stdin:
            os.set_inheritable(self._keeper.stdin.fileno(), True)

    def close(self) -> None:
        """Stop trade and database, and wait until they have ended."""
        self._keeper.communicate()


def main() -> None:
    """Keep the shop of the folder that is named on the command line."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Thread(target=_wait_for_end_of_life_line, args=(stop,), daemon=True).start()
    try:
        with PostgresServer(Path(sys.argv[1])) as server:
            url = open_shop(server.url())
            with open_crm(url) as crm:
                _answer({"url": url, "crm": crm})
                _trade(url, stop)
                stop.wait()
    except (PostgresServerError, psycopg.Error) as error:
        _answer({"error": str(error)})


def _trade(url: str, stop: Event) -> None:
    try:
        replay(url, DEMO_PARQUET)
        trade(url, DEMO_PARQUET, stop)
    except (psycopg.Error, ShopError) as error:
        if not stop.is_set():
            sys.stderr.write(f"The shop has stopped trading, its database is still there: {error}\n")


def _wait_for_end_of_life_line(stop: Event) -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock an exiting interpreter would wait for
    stop.set()


def _answer(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
