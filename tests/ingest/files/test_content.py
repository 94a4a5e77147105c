"""Identity, integrity and line ends of a file's bytes."""

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_assets.ingest.files import content as module
from pipeline_assets.ingest.files.content import read_content


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "f"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda d: pa.Codec("zstd").compress(d, asbytes=True)])
def test_the_identity_is_that_of_the_landed_bytes(tmp_path, pack):
    data = pack(b"a,b\n" * 100_000)
    found = read_content(write(tmp_path, data))
    assert found.content_id == f"{hashlib.sha256(data).hexdigest()[:32]}-{len(data)}"
    assert found.size_bytes == len(data)
    assert found.text_bytes == 400_000
    assert found.newlines == found.physical_lines == 100_000
    assert found.failure is None


def test_a_broken_file_has_an_identity_too(tmp_path):
    data = gzip.compress(b"a,b\n" * 1000)[:-9]
    found = read_content(write(tmp_path, data))
    assert found.content_id == f"{hashlib.sha256(data).hexdigest()[:32]}-{len(data)}"
    assert found.failure is not None


@pytest.mark.parametrize(
    ("data", "lines", "uniform"),
    [
        (b"a\nb\n", 2, True),
        (b"a\nb", 2, True),
        (b"a\r\nb\r\n", 2, True),
        (b"a\rb\r", 2, True),
        (b"a\rb", 2, True),
        (b"a\r\nb\n", 2, False),
        (b"a\rb\n", 1, False),
        (b"\n\n\n", 3, True),
        (b"a", 1, True),
    ],
)
def test_physical_lines_are_counted_by_the_files_own_line_end(tmp_path, data, lines, uniform):
    found = read_content(write(tmp_path, data))
    assert (found.physical_lines, found.uniform_line_ends) == (lines, uniform)


def test_a_line_end_across_two_chunks_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 2)
    found = read_content(write(tmp_path, b"a\r\nbb\r\n"))
    assert (found.newlines, found.crlf, found.carriage_returns) == (2, 2, 2)


def test_memory_does_not_grow_with_a_line(tmp_path):
    path = write(tmp_path, b"x" * 100_000_000)
    tracemalloc.start()
    read_content(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_the_excerpt_is_text_whatever_the_bytes(tmp_path):
    assert read_content(write(tmp_path, b"caf\xe9 \xc3\xa9\n")).excerpt == "caf\\xe9 é\n"
    assert len(read_content(write(tmp_path, b"x" * 5000)).excerpt) == 1000
