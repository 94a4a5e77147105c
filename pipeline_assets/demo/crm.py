"""The shop's CRM: a small HTTP API on loopback, as the ones that people rent are.

Accounts are the shop's customers with what a sales team knows of them, invented from the customer's number. The API has
a bearer token, pages by cursor, and `updated_since`. It keeps nothing: it reads the shop's database.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import psycopg

PAGE_ROWS = 100

_OWNERS = ("Dana Whitfield", "Tomás Rivera", "Aiko Tanaka", "Grace Mensah")
_SEGMENTS = ("key account", "reseller", "small business", "private")
_ACCOUNTS = """
    SELECT customer_id, updated_at FROM customers
    WHERE customer_id > %s AND updated_at >= %s ORDER BY customer_id LIMIT %s"""


class Crm(NamedTuple):
    """A CRM that is open: its address, and the token that it asks for."""

    url: str
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """What `defs/crm__accounts` asks the environment for."""
        return {"CRM_URL": self.url, "CRM_TOKEN": self.token}


@contextmanager
def open_crm(shop_url: str) -> Iterator[Crm]:
    """Serve the CRM of a shop for as long as the block lasts.

    Args:
        shop_url: The shop's database.
    """
    token = secrets.token_urlsafe(16)

    class Handler(_Handler):
        database, expected = shop_url, f"Bearer {token}"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Crm(f"http://127.0.0.1:{server.server_port}", token)
        finally:
            server.shutdown()
            thread.join()


def account(customer_id: int, updated_at: datetime) -> dict[str, Any]:
    """Give what the CRM says of a customer."""
    return {
        "accountId": f"AC-{customer_id}",
        "customerId": customer_id,
        "segment": _SEGMENTS[customer_id % 7 % len(_SEGMENTS)],
        "accountOwner": _OWNERS[customer_id % 11 % len(_OWNERS)],
        "updatedAt": updated_at.isoformat(),
    }


class _Handler(BaseHTTPRequestHandler):
    database: str
    expected: str

    def do_GET(self) -> None:  # named by http.server
        address = urlsplit(self.path)
        if not secrets.compare_digest(self.headers.get("Authorization", ""), self.expected):
            self._answer(401, {"error": "no such token"})
        elif address.path != "/v1/accounts":
            self._answer(404, {"error": f"there is no {address.path}"})
        else:
            try:
                self._answer(200, self._accounts(parse_qs(address.query)))
            except ValueError as error:
                self._answer(400, {"error": str(error)})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # named by http.server
        """Log nothing: only the demo writes to its output."""

    def _accounts(self, query: dict[str, list[str]]) -> dict[str, Any]:
        after = int(query.get("cursor", ["0"])[0])
        since = datetime.fromisoformat(query.get("updated_since", ["1970-01-01T00:00:00+00:00"])[0])
        with psycopg.connect(self.database, options="-c timezone=UTC") as con:
            rows = con.execute(_ACCOUNTS, (after, since, PAGE_ROWS + 1)).fetchall()
        page = rows[:PAGE_ROWS]
        return {
            "accounts": [account(*row) for row in page],
            "nextCursor": str(page[-1][0]) if len(rows) > PAGE_ROWS else None,
        }

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
