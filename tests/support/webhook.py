"""A webhook that keeps what is posted to it, and settings that name one."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline_assets.settings import Settings, load_settings


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with `status`."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, object]]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook/s3cret"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append((self.path, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PIPELINE_{name}", value)
    load_settings.cache_clear()
    return load_settings()
