"""A file that cannot be read weighs as its lines, as the records that it declares, or as its bytes."""

import gzip
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats.records import Format
from pipeline_assets.ingest.files.weight import records_of

LINES = b"id,name\n" + b"1,x\n" * 99


@pytest.mark.parametrize(
    ("data", "format_", "records"),
    [
        pytest.param(LINES, "csv", 99, id="CSV: lines without the header"),
        pytest.param(LINES.rstrip(b"\n"), "csv", 99, id="a last line without its end"),
        pytest.param(LINES.replace(b"\n", b"\r"), "csv", 99, id="old Macintosh"),
        pytest.param(LINES, "jsonl", 100, id="JSON Lines"),
        pytest.param(gzip.compress(LINES), "csv", 99, id="lines after unpacking"),
        pytest.param(b"id", "csv", 1, id="a header alone"),
        pytest.param(b"", "csv", 1, id="nothing"),
        pytest.param(b"[" + b"{}," * 1000, "json", 30, id="JSON: bytes"),
        pytest.param(b"PK\x03\x04" + b"z" * 5000, "csv", 50, id="an archive: bytes"),
        pytest.param(LINES.decode().encode("utf-16"), "csv", 100, id="UTF-16: lines"),
        pytest.param(b"PAR1" + b"z" * 5000, "parquet", 50, id="Parquet without a footer: bytes"),
        pytest.param(b"Obj\x01" + b"z" * 5000, "avro", 50, id="Avro without blocks: bytes"),
        pytest.param(b"z" * 5000, None, 50, id="an unknown format: bytes"),
    ],
)
def test_a_file_weighs(tmp_path: Path, data: bytes, format_: Format | None, records: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    assert records_of(read_content(path), format_, path) == records


@pytest.mark.parametrize("lines", [65, 200_000])
def test_a_truncated_stream_weighs_as_the_lines_that_come_out_of_it(tmp_path: Path, lines: int) -> None:
    data = gzip.compress(b"id\n" + b"".join(b"%d\n" % (i % 1000) for i in range(lines)))
    half = data[: len(data) // 2]
    path = tmp_path / "f"
    path.write_bytes(half)
    found = records_of(read_content(path), "csv", path)
    left = zlib.decompressobj(wbits=31).decompress(half).count(b"\n")
    assert left - 256 // 2 <= found <= left
    assert found > len(half) // 100


def test_parquet_weighs_as_its_footer_declares(tmp_path: Path) -> None:
    path = tmp_path / "f"
    parquet.write_table(pa.table({"id": range(12_345)}), path)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196  # the pages, not the footer
    path.write_bytes(data)
    assert records_of(read_content(path), "parquet", path) == 12_345
