"""One streaming pass over a landed file's bytes: its identity, its integrity and the shape of its line ends.

This module holds what is true of the bytes in any format: content id, compression (by magic bytes, never by name),
whether a compressed stream is complete, how many line ends of each kind there are, and the head of the decompressed
text. Formats, and where records start, are in `ingest.formats`.

DuckDB reads a gzip file that ends in the middle of its stream without an error. So integrity is proved here, by Arrow's
stream, before any reader sees the file.
"""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa

from pipeline_assets.ingest.files.limits import check_time

Compression = Literal["gzip", "zstd"]

CHUNK_BYTES = 4 * 1024 * 1024
HEAD_BYTES = 1024 * 1024
"""Bytes kept from the start of the decompressed file: a CSV header must fit."""

_BYTES_NEAR_DAMAGE = 256
_BYTES_OF_MEMBERS = 64 * 1024
_OF_GZIP = 31  # zlib's `wbits` of a gzip member

EXCERPT_BYTES = 1_000

MAX_UNPACKED_MB = 100_000
"""A gigabyte of gzip can hold a terabyte; a source that delivers more than this in one file declares it."""

_MAGIC: tuple[tuple[bytes, Compression], ...] = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
_SKIPPABLE_ZSTD_FRAME = b"\x2a\x4d\x18"  # bytes 1..3; byte 0 is 0x50 to 0x5f (RFC 8878, 3.1.2)
_UNSUPPORTED = (
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
)
_DOCUMENTS = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls, of old Office)"),
    (b"%PDF-", "a PDF document"),
)
_INSTEAD = "save the sheet as CSV (UTF-8), or export the data as Parquet"
_HEAD_OF_ZIP_BYTES = 16 * 1024  # the names of its first entries
_UTF16_32 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Content:
    """What one pass over a file's bytes proved.

    Attributes:
        content_id: First 32 hex digits of the SHA-256 of the file's bytes, "-", the size in bytes.
        size_bytes: Size of the file as it landed.
        compression: Compression found by magic bytes; None if there is none.
        text_bytes: Size after decompression.
        newlines: Number of line feeds after decompression.
        crlf: Number of line feeds that follow a carriage return.
        carriage_returns: Number of carriage returns, those of `crlf` included.
        ends_open: True if the last byte ends no line.
        last_visible: The last byte that is no white space; empty if all are.
        head: First `HEAD_BYTES` after decompression.
        excerpt: First `EXCERPT_BYTES` of the landed bytes as text, bytes that are not UTF-8 backslash-escaped.
        failure: Why the file cannot be read at all (a dead letter's reason), or None.
        whole_bytes: Where the members of a gzip file end, if it fails only for other bytes that follow them.
    """

    content_id: str
    size_bytes: int
    compression: Compression | None
    text_bytes: int
    newlines: int
    crlf: int
    carriage_returns: int
    ends_open: bool
    last_visible: bytes
    head: bytes
    excerpt: str
    failure: str | None
    whole_bytes: int | None = None

    @property
    def terminator(self) -> bytes:
        """The byte that ends a physical line: CR in a file without any LF (old Macintosh), LF otherwise."""
        return b"\r" if self.newlines == 0 and self.carriage_returns else b"\n"

    @property
    def physical_lines(self) -> int:
        """Number of physical lines, a last line without its line end included."""
        ends = self.newlines if self.terminator == b"\n" else self.carriage_returns
        return ends + int(self.ends_open)

    @property
    def uniform_line_ends(self) -> bool:
        """True if every line ends the same way and no carriage return stands alone."""
        if self.terminator == b"\r":
            return True
        return self.carriage_returns == 0 or self.newlines == self.crlf == self.carriage_returns


class _HashingReader:
    """A readable file that hashes what passes; Arrow decompresses from it, so the file is read once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            self.error = error  # an error of the disk: it must not pass for a fault of the compressed stream
            raise
        self.sha256.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Hash what the decompressor left unread, so that the identity covers the whole file."""
        while self.read(CHUNK_BYTES):
            pass

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def flush(self) -> None:
        pass


def detect_compression(first: bytes) -> Compression | None:
    """Detect the compression of a file by its first bytes, because its name proves nothing."""
    for magic, compression in _MAGIC:
        if first.startswith(magic):
            return compression
    if first[1:4] == _SKIPPABLE_ZSTD_FRAME and 0x50 <= first[0] <= 0x5F:
        return "zstd"
    return None


def read_chunks(path: Path, compression: Compression | None) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks of at most `CHUNK_BYTES`.

    Raises:
        OSError: The compressed stream is truncated or corrupt.
    """
    with path.open("rb") as file:
        yield from _chunks(file, compression)


def _chunks(
    file: "BinaryIO | _HashingReader", compression: Compression | None, size: int | None = None
) -> Iterator[bytes]:
    size = size or CHUNK_BYTES
    if compression is None:
        while data := file.read(size):
            check_time()
            yield data
        return
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression) as stream:
        while data := stream.read(size):
            check_time()
            yield data


def read_content(path: Path, max_unpacked_bytes: int | None = None) -> Content:
    """Read a file once, and find its identity, integrity and line ends; memory is bounded by the chunk size.

    A file that is empty, truncated, corrupt or of an unknown compression raises no exception: `Content.failure` says
    so. Its identity still covers all its bytes, because its dead letter needs an identity.

    Args:
        path: The file.
        max_unpacked_bytes: A compressed file that holds more is not unpacked any further; this is a failure, too.

    Raises:
        OSError: The file cannot be opened or read from its disk.
    """
    with path.open("rb") as file:
        first = file.read(EXCERPT_BYTES)
        file.seek(0)
        reader = _HashingReader(file)
        compression = detect_compression(first)
        counts = _Counts()
        failure = whole_bytes = None
        try:
            for chunk in _chunks(reader, compression):
                counts.add(chunk)
                if compression and max_unpacked_bytes is not None and counts.size > max_unpacked_bytes:
                    failure = _limit_failure(compression, max_unpacked_bytes)
                    break
        except OSError as error:
            if reader.error is not None:
                raise reader.error from None
            if compression is None:
                raise
            failure, counts = _stream_failure(compression, error), _counts_until_damage(path, compression)
            if compression == "gzip" and (whole_bytes := _end_of_members(path)) is not None:
                failure = "file: what follows the end of the gzip stream is not gzip"
        reader.drain()
    return Content(
        content_id=f"{reader.sha256.hexdigest()[:32]}-{reader.size}",
        size_bytes=reader.size,
        compression=compression,
        text_bytes=counts.size,
        newlines=counts.newlines,
        crlf=counts.crlf,
        carriage_returns=counts.carriage_returns,
        ends_open=counts.size > 0 and counts.last not in (b"\n", b"\r"),
        last_visible=counts.last_visible,
        head=bytes(counts.head),
        excerpt=first.decode("utf-8", "backslashreplace"),
        failure=failure or _head_failure(bytes(counts.head), counts.size, compression),
        whole_bytes=whole_bytes,
    )


def with_head(content: Content, path: Path) -> Content:
    """Give `content` its head again, because a plan of many files does not keep heads."""
    if content.failure is not None:
        return content
    chunks = read_chunks(path, content.compression)
    head = b""
    while len(head) < HEAD_BYTES and (chunk := next(chunks, b"")):
        head += chunk
    return replace(content, head=head[:HEAD_BYTES])


def _counts_until_damage(path: Path, compression: Compression) -> "_Counts":
    """Count what comes out of a damaged stream, in small reads, because Arrow gives nothing of a read that fails."""
    counts = _Counts()
    with path.open("rb") as file, suppress(OSError):
        for chunk in _chunks(file, compression, _BYTES_NEAR_DAMAGE):
            counts.add(chunk)
    return counts


def _end_of_members(path: Path) -> int | None:
    """Give where the members of a damaged gzip file end, if all are complete and no other one begins behind them.

    GNU gzip also unpacks such members, and warns "trailing garbage ignored".
    """
    member = zlib.decompressobj(_OF_GZIP)
    data = b""
    with path.open("rb") as file, suppress(zlib.error):
        while data := data or file.read(_BYTES_OF_MEMBERS):
            check_time()
            member.decompress(data, CHUNK_BYTES)  # no more at once: a member can hold a thousand times its size
            data = member.unconsumed_tail
            if member.eof:
                data = member.unused_data or file.read(_BYTES_OF_MEMBERS)
                data += file.read(1) if len(data) == 1 else b""
                if detect_compression(data) != "gzip":
                    return file.tell() - len(data) if data else None
                member = zlib.decompressobj(_OF_GZIP)
    return None


def _limit_failure(compression: str, max_unpacked_bytes: int) -> str:
    return (
        f"limit: the {compression} stream holds more than max_unpacked_mb = {max_unpacked_bytes // 1_000_000}: raise "
        "it and touch the file, or have it delivered in parts"
    )


def _stream_failure(compression: str, error: OSError) -> str:
    kind = "truncated" if "runcated" in str(error) else "corrupt"
    return f"file: {kind} {compression} stream ({error})"


def _head_failure(head: bytes, size: int, compression: Compression | None) -> str | None:
    if size == 0:
        return "file: empty"
    if compression and (inner := detect_compression(head)):
        return f"file: {inner} inside {compression} is not read; land it compressed once"
    for magic, name in _DOCUMENTS:
        if head.startswith(magic):
            return f"file: {name} is not read; {_INSTEAD}"
    if head.startswith(b"PK\x03\x04") and b"xl/" in head[:_HEAD_OF_ZIP_BYTES]:
        return f"file: an Excel workbook (.xlsx) is not read; {_INSTEAD}"
    for magic, name in _UNSUPPORTED:
        if head.startswith(magic):
            return f"file: {name} archives are not read; land gzip, zstd or uncompressed files"
    if head.startswith(_UTF16_32):
        return "encoding: the file is UTF-16 or UTF-32, only UTF-8 is read; save it as UTF-8"
    return None


class _Counts:
    """Line ends, size and head of a stream that comes in chunks."""

    def __init__(self) -> None:
        self.size = self.newlines = self.crlf = self.carriage_returns = 0
        self.head = bytearray()
        self.last = self.last_visible = b""

    def add(self, chunk: bytes) -> None:
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self.size += len(chunk)
        self.newlines += chunk.count(b"\n")
        if b"\r" in chunk:
            self.carriage_returns += chunk.count(b"\r")
            self.crlf += chunk.count(b"\r\n")
        if self.last == b"\r" and chunk.startswith(b"\n"):
            self.crlf += 1
        self.last_visible = chunk[-64:].rstrip()[-1:] or chunk.rstrip()[-1:] or self.last_visible
        self.last = chunk[-1:]
