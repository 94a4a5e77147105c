"""A CRM's API on loopback, a real threaded HTTP server, that misbehaves on demand.

It pages in any of the usual ways. A fault is a function of the request's number and its query: it gives the reply to
send instead, or None.
"""

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

Paging = Literal["single", "page", "offset", "cursor", "next_url", "link_header"]
Ending = Literal["whole", "cut", "chunks cut", "reset", "hang"]

PAGE = 3


@dataclass(frozen=True)
class Reply:
    """What is sent, and how it ends."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    ending: Ending = "whole"


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    at: float
    path: str
    query: dict[str, str]
    headers: dict[str, str]


Fault = Callable[[int, dict[str, str]], Reply | None]


def account(number: int, day: int = 1, **more: object) -> str:
    """A record as the API writes it."""
    return json.dumps(
        {"account_id": number, "name": f"Account {number}", "updated_at": f"2026-01-{day:02}T00:00:00Z", **more}
    )


class Api:
    """The server, its records and its faults. Use it as a context manager."""

    def __init__(self, paging: Paging = "cursor", records: Sequence[str] = (), *, fault: Fault | None = None) -> None:
        self.paging = paging
        self.records = list(records) or [account(n) for n in range(1, 11)]
        self.fault = fault
        self.page_size = PAGE
        self.asked: list[Asked] = []
        self.tokens: list[Asked] = []
        self.token = "first-token"  # as the header must have it, where a test asks for OAuth
        self.needs_token = False
        self.strikes_at, self.struck = 1, 0  # for the faults' own use
        self.over = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Api":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def page(self, query: dict[str, str], records: Sequence[str] | None = None) -> Reply:
        """The page as it should be; with other records on it, or with other numbers of records before it."""
        start = self._start(query)
        found = self.records[start : start + self.page_size] if self.paging != "single" else self.records
        follows = start + self.page_size < len(self.records) and self.paging != "single"
        meta: dict[str, Any] = {"total": len(self.records)}
        headers = {}
        where = f"/accounts?{urlencode({**query, 'start': start + self.page_size})}"
        if self.paging == "cursor":
            meta["next"] = f"c{start + self.page_size}" if follows else None
        elif self.paging == "next_url":
            meta["next"] = f"{self.url}{where}" if follows else ""
        elif self.paging == "link_header" and follows:
            headers["Link"] = f'<{where}>; rel="next", </accounts>; rel="first"'
        return body(found if records is None else records, meta, headers)

    def _start(self, query: dict[str, str]) -> int:
        if self.paging == "page":
            return (int(query.get("page", "1")) - 1) * self.page_size
        if self.paging == "offset":
            return int(query.get("offset", "0"))
        return int(query.get("cursor", "c0")[1:]) if self.paging == "cursor" else int(query.get("start", "0"))

    def answer(self, asked: Asked) -> Reply:
        if asked.path == "/token":
            self.tokens.append(asked)
            self.token = f"secret-token-{len(self.tokens)}"
            return Reply(body=json.dumps({"access_token": self.token, "expires_in": 3600}).encode())
        self.asked.append(asked)
        if self.needs_token and asked.headers.get("Authorization") != f"Bearer {self.token}":
            return Reply(401, b'{"error": "the token has expired"}')
        return (self.fault(len(self.asked), asked.query) if self.fault else None) or self.page(asked.query)


def body(records: Sequence[str], meta: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
    text = f'{{"meta": {json.dumps(meta)}, "data": {{"items": [{", ".join(records)}]}}}}'
    return Reply(200, text.encode(), headers or {})


def zipped(reply: Reply, *, cut: int = 0) -> Reply:
    """The reply, compressed; with `cut`, without the last bytes of the stream, and a length that agrees."""
    data = gzip.compress(reply.body)
    return Reply(200, data[: len(data) - cut], {**reply.headers, "Content-Encoding": "gzip"})


def http_date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: Api) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one packet: two of them wait 40 ms for each other

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self._send(self.server.api.answer(self._asked(parts.path, parts.query)))

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._send(self.server.api.answer(self._asked(self.path, form)))

    def _asked(self, path: str, query: str) -> Asked:
        # A parameter that is sent twice shows as two values, so that no test takes it for one.
        given = {name: ",".join(values) for name, values in parse_qs(query, keep_blank_values=True).items()}
        return Asked(time.monotonic(), path, given, dict(self.headers))

    def _send(self, reply: Reply) -> None:
        if reply.ending in ("reset", "hang"):
            self._hang_up(10 if reply.ending == "hang" else 0)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.ending == "chunks cut":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            half = reply.body[: len(reply.body) // 2]
            self.wfile.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")
        else:
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: len(reply.body) // 2] if reply.ending == "cut" else reply.body)
        self.close_connection = self.close_connection or reply.ending != "whole"

    def _hang_up(self, after_seconds: float) -> None:
        self.server.api.over.wait(after_seconds)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
