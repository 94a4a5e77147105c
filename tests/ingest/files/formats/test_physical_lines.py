"""Where records start: the bulk scan, the careful one and the standard library agree."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingest.files import content as content_module
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats.physical_lines import line_starts, read_ranges, record_starts


def scan(tmp_path: Path, data: bytes, **options):
    path = tmp_path / "f"
    path.write_bytes(data)
    return record_starts(path, read_content(path), ",", **options)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("stray", [b"x", b'6"'])  # the second needs the careful scan
def test_records_start_where_they_start_however_the_file_is_cut(tmp_path, monkeypatch, chunk, newline, stray):
    monkeypatch.setattr(content_module, "CHUNK_BYTES", chunk)
    records = [b"a,b", b'1,"x' + newline + b'y"', b"", b'"say ""hi""",' + stray, b"", b"3,4"]
    found = scan(tmp_path, newline.join(records))
    assert found.lines.to_list() == [1, 2, 5, 7]
    starts = [sum(len(r) + len(newline) for r in records[:i]) for i in (0, 1, 3, 5)]
    assert found.offsets.to_list() == starts
    assert not found.open_quote


def test_blank_lines_are_records_where_they_are_wanted(tmp_path):
    assert scan(tmp_path, b"a\n\nb\n\n", keep_blank=True).lines.to_list() == [1, 2, 3, 4]
    assert scan(tmp_path, b"a\n\nb\n\n").lines.to_list() == [1, 3]


@pytest.mark.parametrize("stray", [b"x", b'6"'])
def test_an_open_quote_is_seen(tmp_path, stray):
    found = scan(tmp_path, b"a,b\n" + stray + b',1\n1,"x\n2,3\n')
    assert found.open_quote
    assert found.lines.to_list() == [1, 2, 3]


def test_every_line_starts_a_line(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b'"a\n\nb"\nc')
    assert line_starts(path, read_content(path)).lines.to_list() == [1, 2, 3, 4]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_ranges_are_read_across_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(content_module, "CHUNK_BYTES", chunk)
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    found = {}
    read_ranges(path, read_content(path), [(0, 2), (2, 3), (7, 99)], found.__setitem__)
    assert found == {0: b"01", 2: b"234", 7: b"789"}


FIELDS = st.text(alphabet=st.sampled_from('ab,"\n\r 6é'), max_size=5)


@given(rows=st.lists(st.lists(FIELDS, min_size=2, max_size=3), min_size=1), newline=st.sampled_from(["\n", "\r\n"]))
def test_records_start_as_the_standard_library_writes_them(tmp_path_factory, rows, newline):
    text, expected, line = io.StringIO(newline=""), [], 1
    writer = csv.writer(text, lineterminator=newline)
    for row in rows:
        expected.append((len(text.getvalue().encode()), line))
        writer.writerow(row)
        line = text.getvalue().count("\n") + 1
    found = scan(tmp_path_factory.mktemp("f"), text.getvalue().encode())
    assert list(zip(found.offsets, found.lines, strict=True)) == expected
