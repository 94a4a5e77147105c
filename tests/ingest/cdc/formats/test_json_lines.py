"""Lines of a file, whatever their ends and lengths."""

import gzip
from pathlib import Path

import pytest

from pipeline_assets.ingest.cdc.formats import json_lines
from pipeline_assets.ingest.files.content import read_content


def read(path: Path, data: bytes) -> list[tuple[int, bytes, bool]]:
    path.write_bytes(data)
    return list(json_lines.lines(path, read_content(path)))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a":1}\n{"b":2}\n', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'{"a":1}\n\n  \n{"b":2}', [(1, b'{"a":1}'), (4, b'{"b":2}')]),
        (b'{"a":1}\r\n{"b":2}\r\n', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'{"a":1}\r{"b":2}\r', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'\xef\xbb\xbf{"a":1}\n', [(1, b'{"a":1}')]),
        (gzip.compress(b'{"a":1}\n', mtime=0), [(1, b'{"a":1}')]),
    ],
)
def test_lines_are_numbered_and_trimmed(tmp_path: Path, data: bytes, found: list[tuple[int, bytes]]) -> None:
    assert read(tmp_path / "a", data) == [(number, line, False) for number, line in found]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_chunks_cut_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("pipeline_assets.ingest.files.content.CHUNK_BYTES", chunk)
    data = b"\n".join(b'{"n":%d}' % n for n in range(20))
    assert read(tmp_path / "a", data) == [(n + 1, b'{"n":%d}' % n, False) for n in range(20)]


def test_a_line_that_is_too_long_is_cut_and_the_next_ones_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE_BYTES", 2_000)
    monkeypatch.setattr("pipeline_assets.ingest.files.content.CHUNK_BYTES", 500)
    found = read(tmp_path / "a", b"1\n" + b"x" * 10_000 + b"\n3\n" + b"y" * 10_000)
    assert found == [(1, b"1", False), (2, b"x" * 1_000, True), (3, b"3", False), (4, b"y" * 1_000, True)]
