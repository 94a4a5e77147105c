"""CSV files, good and bad, through the whole way of a landed file."""

import gzip
from decimal import Decimal

import pyarrow as pa
import pytest

from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.formats.csv_reader import CsvRecords
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES

HEADER = b"InvoiceNo,Quantity,Unit Price,note\n"
GOOD = b"536365,6,2.55,white\n"
ROW = ("536365", 6, Decimal("2.550"), "white", None)


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def test_a_clean_file_lands_with_its_physical_lines(land):
    landed = land(HEADER + GOOD * 3)
    assert landed.rows == [(2, *ROW), (3, *ROW), (4, *ROW)]
    assert landed.dead == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xef\xbb\xbf" + HEADER + GOOD, id="byte order mark"),
        pytest.param((HEADER + GOOD).replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param((HEADER + GOOD).replace(b"\n", b"\r"), id="CR"),
        pytest.param(HEADER + GOOD.rstrip(), id="no final newline"),
        pytest.param(HEADER + GOOD.replace(b"\n", b",,\n"), id="surplus empty columns"),
        pytest.param(HEADER.replace(b"InvoiceNo", b'"InvoiceNo"') + GOOD, id="quoted header"),
    ],
)
def test_writers_differ_and_the_row_is_the_same(land, data):
    landed = land(data)
    assert landed.rows == [(2, *ROW)]
    assert landed.dead == []


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, zstd, lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:])]
)
def test_compression_is_told_by_the_bytes_not_by_the_name(land, name, pack):
    assert land(pack(HEADER + GOOD * 2), name).rows == [(2, *ROW), (3, *ROW)]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_truncated_compressed_file_is_one_dead_letter(land, pack, cut):
    packed = pack(HEADER + b"".join(b"%d,%d,1,x%d\n" % (i, i, i * i) for i in range(1000)))
    landed = land(packed[:-cut], "a.csv.gz")
    assert landed.rows == []
    assert len(landed.dead) == 1
    assert landed.dead[0].line is None
    assert landed.reasons[0].startswith("file: ")


def test_a_corrupt_gzip_file_is_one_dead_letter(land):
    packed = bytearray(gzip.compress(HEADER + b"".join(b"%d,1,1,\n" % (i * i) for i in range(1000))))
    packed[200:220] = b"\0" * 20
    assert land(bytes(packed), "a.csv.gz").reasons[0].startswith("file: corrupt gzip stream")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "file: empty"),
        (gzip.compress(b"", mtime=0), "file: empty"),
        (b"\n\n", "header: missing"),
        (b"PK\x03\x04rest", "file: zip archives are not read; land gzip, zstd or uncompressed files"),
        (
            (HEADER + GOOD).decode().encode("utf-16"),
            "encoding: the file is UTF-16 or UTF-32, only UTF-8 is read; save it as UTF-8",
        ),
        (
            (HEADER + GOOD).decode().encode("utf-16-le"),
            "encoding: NUL bytes in the header; is the file UTF-16? Only UTF-8 is read",
        ),
        (
            b"invoice_no,quantity,quantity\n1,2,3\n",
            "header: 'quantity' is there more than once, and which is meant cannot be known: "
            "rename or remove the others",
        ),
        (
            gzip.compress(gzip.compress(HEADER + GOOD, mtime=0), mtime=0),
            "file: gzip inside gzip is not read; land it compressed once",
        ),
        (
            gzip.compress(zstd(HEADER + GOOD), mtime=0),
            "file: zstd inside gzip is not read; land it compressed once",
        ),
        (
            b"PK\x03\x04\x14\0\x06\0\x08\0xl/workbook.xml",
            "file: an Excel workbook (.xlsx) is not read; save the sheet as CSV (UTF-8), or export the data as Parquet",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            "file: an Excel workbook (.xls, of old Office) is not read; "
            "save the sheet as CSV (UTF-8), or export the data as Parquet",
        ),
        (
            b"%PDF-1.7",
            "file: a PDF document is not read; save the sheet as CSV (UTF-8), or export the data as Parquet",
        ),
        (b"invoice_no;quantity\n1;2\n", "header: the delimiter looks like ';': set `delimiter: ';'`"),
        (b"invoice_no\tquantity\n1\t2\n", 'header: the delimiter looks like "\\t": set `delimiter: "\\t"`'),
        (b"invoice_no,qu\xe4ntity\n1,2\n", "encoding: the header is not UTF-8 (invalid continuation byte)"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_dead_letter(land, data, reason):
    landed = land(data)
    assert landed.rows == []
    assert landed.reasons == [reason]
    assert landed.dead[0].line is None


def test_an_unreadable_file_keeps_its_first_bytes(land):
    assert land(b"\xff\xfea\x00").dead[0].raw == "\\xff\\xfea\x00"


def test_a_header_alone_is_no_row_and_no_dead_letter(land):
    landed = land(HEADER)
    assert (landed.rows, landed.dead) == ([], [])


def test_a_header_that_lacks_required_columns_makes_every_record_a_dead_letter(land):
    landed = land(b"invoice,amount\n1,2\n3,4\n")
    assert landed.rows == []
    assert landed.reasons == ["header: lacks invoice_no, quantity"] * 2
    assert [d.line for d in landed.dead] == [2, 3]
    assert landed.dead[0].raw == '{"invoice":"1","amount":"2"}'


def test_blank_lines_and_quoted_line_ends_do_not_shift_lines(land):
    landed = land(HEADER + b'1,1,1,"a\nb"\n\n2,2,2,"say ""hi"", ok"\n\n\n3,3,3,x')
    assert [(row[0], row[4]) for row in landed.rows] == [(2, "a\nb"), (5, 'say "hi", ok'), (8, "x")]


def test_a_file_of_many_lines_with_quoted_line_ends_is_scanned_once(land, monkeypatch):
    monkeypatch.setattr(limits, "MAX_DEAD_LETTERS", 10)
    read, scans = CsvRecords.read, []
    monkeypatch.setattr(CsvRecords, "read", lambda *args, **given: scans.append(1) or read(*args, **given))
    good = b"".join(b'%d,1,1,"a\nb"\n' % n for n in range(20))
    landed = land(HEADER + good)
    assert (landed.lines, landed.dead, len(scans)) == (list(range(2, 42, 2)), [], 1)
    landed = land(HEADER + good + b"1,2\n")
    assert (landed.lines, [d.line for d in landed.dead]) == (list(range(2, 42, 2)), [42])


def test_blank_lines_before_the_header_count(land):
    assert land(b"\n\n" + HEADER + GOOD).lines == [4]
    assert land(b"\r\n" + (HEADER + GOOD).replace(b"\n", b"\r\n")).lines == [3]


def test_a_line_end_in_a_quoted_header_counts(land):
    assert land(b'invoice_no,quantity,"a\nb"\n1,2,3\n').lines == [3]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_rejects_keep_their_line_and_raw_text(land, newline):
    data = HEADER + b'1,1,1,"a\nb"\n\n2,2\n3,3,3,3,3\n"4"4,4,4,4\n5,5,5,5\n'
    landed = land(data.replace(b"\n", newline))
    assert landed.lines == [2, 8]
    assert [(d.line, d.raw) for d in landed.dead] == [(5, "2,2"), (6, "3,3,3,3,3"), (7, '"4"4,4,4,4')]
    assert landed.reasons == [
        "csv: missing columns: expected 4, found 2",
        "csv: too many columns: expected 4, found 5",
        "csv: quote: text follows a closing quote",
    ]


def test_mixed_line_ends_are_read(land):
    landed = land(HEADER + b'1,1,1,"a\r\nb"\r\n2,2,2,x\n\r\n3,3,3,y\r\n')
    assert [(row[0], row[4]) for row in landed.rows] == [(2, "a\r\nb"), (4, "x"), (6, "y")]
    assert landed.dead == []


def test_quotes_inside_unquoted_values_are_text(land):
    landed = land(HEADER + b'1,1,1,6" plate\n\n2,2,2,"a\nb"\n3,3\n4,4,4,8"\n')
    assert [(row[0], row[4]) for row in landed.rows] == [(2, '6" plate'), (4, "a\nb"), (7, '8"')]
    assert [(d.line, d.raw) for d in landed.dead] == [(6, "3,3")]


def test_a_carriage_return_alone_costs_its_line(land):
    landed = land(b"invoice_no,quantity\n1\r2,3\n4,5\n")
    assert landed.lines == [3]
    assert landed.reasons == ["csv: line ends are mixed: a carriage return stands alone outside quotes"]


def test_an_open_quote_in_the_last_line_is_not_lost(land):
    landed = land(HEADER + GOOD + b'2,2,2,"open')
    assert landed.rows == [(2, *ROW)]
    assert [(d.line, d.raw) for d in landed.dead] == [(3, '2,2,2,"open')]


def test_bytes_that_are_not_utf8_come_back_escaped(land):
    landed = land(HEADER + b'1,1,1,caf\xe9\n2,2,2,caf\xc3\xa9\n3,3,\xff,"\xfe\n"\n4,4,4,x\n')
    assert [(row[0], row[4]) for row in landed.rows] == [(3, "café"), (6, "x")]
    assert [(d.line, d.reason, d.raw) for d in landed.dead] == [
        (2, "encoding: not UTF-8", "1,1,1,caf\\xe9"),
        (4, "encoding: not UTF-8", '3,3,\\xff,"\\xfe\n"'),
    ]


def test_raw_bytes_of_a_reject_are_found_in_a_compressed_file(land):
    landed = land(gzip.compress(HEADER + GOOD * 300_000 + b"1,1,1,caf\xe9\n" + GOOD), "a.csv.gz")
    assert [(d.line, d.raw) for d in landed.dead] == [(300_002, "1,1,1,caf\\xe9")]
    assert landed.lines[-1] == 300_003


def test_a_line_over_the_limit_is_a_dead_letter_and_the_next_lands(land):
    long = b"1,1,1," + b"z" * (MAX_LINE_BYTES + 10)
    landed = land(HEADER + long + b"\n" + GOOD)
    assert landed.rows == [(3, *ROW)]
    assert landed.dead[0].line == 2
    assert landed.reasons[0] == f"line too long: {len(long) + 1} bytes, the limit is {MAX_LINE_BYTES}"
    assert landed.dead[0].raw == long[:10_000].decode()


def test_a_long_reject_below_the_limit_keeps_all_of_its_text(land):
    long = b"1,1," + b"z" * 1_000_000
    assert land(HEADER + long + b"\n" + GOOD).dead[0].raw == long.decode()


def test_nul_bytes_are_text(land):
    assert land(HEADER + b"1,1,1,x\x00y\n").rows[0][4] == "x\x00y"


def test_a_file_with_one_column_keeps_its_blank_lines_as_records(land):
    landed = land(b"invoice_no\n1\n\n2\n")
    assert [d.line for d in landed.dead] == [2, 3, 4]


def test_a_delimiter_can_be_given(land):
    data = (HEADER + GOOD).replace(b",", b";") + b'1;1;1;"a;\nb"\n\n2;2;2;x\n'
    assert land(data, delimiter=";").lines == [2, 3, 6]


def test_a_name_with_glob_characters_is_only_a_name(land, tmp_path):
    (tmp_path / "a1.csv").write_bytes(HEADER + GOOD)
    assert land(HEADER + GOOD * 2, "a[1]*{x}?.csv").lines == [2, 3]


def test_an_unknown_suffix_needs_a_format(land):
    assert land(HEADER + GOOD, "a.dat").reasons == [
        "file: no format known for the name 'a.dat'; set the source's format"
    ]
    assert land(HEADER + GOOD, "a.dat", format="csv").lines == [2]
