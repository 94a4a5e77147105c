"""JSON Lines and JSON documents through the whole way of a landed file."""

import gzip
from decimal import Decimal

import pyarrow as pa
import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.files.formats.json_documents import write_elements
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES

TEXTS = RawShape((RawColumn("a", "VARCHAR"), RawColumn("b", "VARCHAR")))
GOOD = b'{"InvoiceNo":"536365","Quantity":6,"unitPrice":2.55,"note":"white"}\n'
ROW = ("536365", 6, Decimal("2.550"), "white", None)


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_clean_lines_land(land, pack):
    landed = land(pack(GOOD * 2), "a.jsonl")
    assert landed.rows == [(1, *ROW), (2, *ROW)]
    assert landed.dead == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_a_json_array_lands_with_element_numbers(land, pack):
    landed = land(pack(b"[" + GOOD + b",\n\n" + GOOD + b"]"), "a.json.gz")
    assert landed.rows == [(1, *ROW), (2, *ROW)]
    assert landed.dead == []


@pytest.mark.parametrize(
    "data", [GOOD, GOOD.replace(b",", b",\n "), b"\xef\xbb\xbf" + GOOD, b"\xef\xbb\xbf[" + GOOD + b"]"]
)
def test_a_document_may_be_a_single_object(land, data):
    assert land(data, "a.json").rows == [(1, *ROW)]


def test_white_space_after_an_array_is_no_damage(land):
    assert land(b"[" + GOOD + b"]" + b"\r\n " * 400_000, "a.json").rows == [(1, *ROW)]


def test_an_empty_array_holds_no_records(land):
    landed = land(b"[]", "a.json")
    assert (landed.rows, landed.dead) == ([], [])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("data", [b"", b" \n\n"])
def test_a_file_without_text_is_one_dead_letter(land, name, data):
    assert land(data, name).reasons == ["file: empty"]


def test_elements_that_are_no_objects_are_dead_letters(land):
    landed = land(b"[" + GOOD + b', [1], null, 5, "x"]', "a.json")
    assert landed.rows == [(1, *ROW)]
    assert [(d.line, d.reason, d.raw) for d in landed.dead] == [
        (2, "json: not an object", "[1]"),
        (3, "json: not an object", "null"),
        (4, "json: not an object", "5"),
        (5, "json: not an object", '"x"'),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"[" + GOOD + b"," + GOOD,
        GOOD + b'{"a":',
        b"[" + GOOD + b"] trailing",
        b"[" + GOOD + b",",
        b"[" + GOOD + b",\n" + b" " * 100,
        b"\xef\xbb\xbf[" + GOOD + b",",
        gzip.compress(b"[" + GOOD + b",", mtime=0),
        b"[",
    ],
)
def test_a_malformed_document_is_one_dead_letter(land, data):
    landed = land(data, "a.json")
    assert landed.rows == []
    assert len(landed.dead) == 1
    assert landed.dead[0].line is None
    assert landed.reasons[0].startswith(("json: malformed", "file: "))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"a": nul}', "json: malformed"),
        (b'{"a": "\\ud800", "b": "],[{\\"\\\\"}', "json: malformed"),
        (b'{"a": "\xff"}', "encoding: not UTF-8"),
        (b'{"a": "two\nlines"}', "json: malformed"),
        (b"", "json: malformed"),
        (b'[1, {"x": [nul]}]', "json: malformed"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_element_that_is_no_json_costs_itself(land, bad, reason, pack):
    data = b"\xef\xbb\xbf [" + GOOD.replace(b",", b",\r\n  ") + b"," + bad + b", " + GOOD + b"]\n"
    landed = land(pack(data), "a.json")
    assert landed.rows == [(1, *ROW), (3, *ROW)]
    assert [(letter.line, letter.reason) for letter in landed.dead] == [(2, reason)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_an_array_is_taken_apart_alike_wherever_its_chunks_end(tmp_path, size):
    data = b'[{"a": "\\"],\\\\"}, nul ,\n[1, [2]], "x,y", {"b": {}}]'
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert write_elements(chunks, tmp_path / "out")
    assert (tmp_path / "out").read_bytes().splitlines() == [
        b'{"a": "\\"],\\\\"}', b"nul", b"[1, [2]]", b'"x,y"', b'{"b": {}}'
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data", [b"[1", b"[1]]", b"[1] x", b'["a]', b"{}", b"[1}", b"x[1]", b"", b'"a"', b"[1][2]", b"[[1]"]
)
def test_what_is_no_whole_array_is_not_taken_apart(tmp_path, data):
    assert not write_elements([data], tmp_path / "out")


def test_lines_that_are_no_objects_are_dead_letters_with_their_lines(land):
    landed = land(GOOD + b'[1,2]\n\nnull\n{"a":\n  \n' + GOOD + b'{"InvoiceNo":"1","Quantity":1} x', "a.jsonl")
    assert landed.lines == [1, 7]
    assert [(d.line, d.reason, d.raw) for d in landed.dead] == [
        (2, "json: not an object", "[1,2]"),
        (4, "json: not an object", "null"),
        (5, "json: malformed", '{"a":'),
        (8, "json: malformed", '{"InvoiceNo":"1","Quantity":1} x'),
    ]


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
def test_line_ends_differ_and_lines_stay(land, newline):
    landed = land((GOOD + b"\n" + GOOD).replace(b"\n", newline), "a.jsonl")
    assert landed.lines == [1, 3]


def test_mixed_line_ends_do_not_shift_lines(land):
    data = b"\xef\xbb\xbf" + GOOD + GOOD.replace(b"\n", b"\r\n") + b"\r\n" + GOOD + b'{"a":"\r"}\r\n' + GOOD
    landed = land(data, "a.jsonl")
    assert landed.lines == [1, 2, 4, 6]
    assert [(d.line, d.reason) for d in landed.dead] == [(5, "json: malformed")]


def test_rejected_lines_keep_line_and_raw_and_do_not_shift_others(land):
    long = b'{"a":"' + b"y" * MAX_LINE_BYTES + b'"}\n'
    landed = land(b'{"a":"caf\xe9"}\n\n' + GOOD + long + b'{"a":\x1f1}\n' + GOOD, "a.jsonl")
    assert landed.lines == [3, 6]
    assert [(d.line, d.reason) for d in landed.dead] == [
        (1, "encoding: not UTF-8"),
        (4, f"line too long: {len(long)} bytes, the limit is {MAX_LINE_BYTES}"),
        (5, "json: malformed: a control character (U+001F) in the line"),
    ]
    assert landed.dead[0].raw == '{"a":"caf\\xe9"}'
    assert landed.dead[1].raw == long[:10_000].decode()


@pytest.mark.parametrize(
    "number",
    ["1.50", "1.0", "9007199254740993", "123456789012345678901234567890", "1e400", "1E5", "-0", "-0.0", "0.0000001",
     "0.1000000000000000055511151231257827", "-2.500e-3", "0", "7", "-12.75"],
)  # fmt: skip
@pytest.mark.parametrize(("name", "frame"), [("a.jsonl", "%s\n"), ("a.json", "[%s]")])
def test_numbers_keep_their_text(land, name, frame, number):
    data = frame % f'{{"a": {number}, "b": "1.50 \\"2.50\\" {number}", "c": [ {number} ]}}'
    landed = land(data.encode(), name, shape=TEXTS)
    assert landed.rows == [(1, number, f'1.50 "2.50" {number}', f'{{"c":[{number}]}}')]


@pytest.mark.parametrize("mark", ["\ue0f1", "\\ue0f1", "\\uE0F1"])
@pytest.mark.parametrize("number", ["1.5", "1.50"])
def test_no_text_of_the_source_is_taken_for_a_marked_number(land, mark, number):
    landed = land(f'{{"a": "{mark}5", "b": {{"x": "{mark}"}}, "c": {number}}}'.encode(), "a.jsonl", shape=TEXTS)
    assert landed.rows[0][1:3] == ("\ue0f15", '{"x":"\ue0f1"}')


def test_other_values_become_text(land):
    data = b'{"a": true, "b": {"x": [1, "y"]}}\n{"a": null, "b": ""}\n'
    data += b'{"a": "\\u0000\\ud83d\\ude00\\n", "b": "caf\xc3\xa9"}\n'
    landed = land(data, "a.jsonl", shape=TEXTS)
    assert [row[1:3] for row in landed.rows] == [("true", '{"x":[1,"y"]}'), (None, ""), ("\0\U0001f600\n", "café")]


def test_unknown_fields_are_rescued_as_they_were(land):
    landed = land(
        b'{"a":"1","extra":null}\n{"a":"2"}\n{"a":"3","x/y~\\"z":{"q":1.50},"":"e"}\n', "a.jsonl", shape=TEXTS
    )
    assert [row[3] for row in landed.rows] == ['{"extra":null}', None, '{"x/y~\\"z":{"q":1.50},"":"e"}']


def test_a_key_may_be_spelt_differently_from_line_to_line_and_in_one_if_one_spelling_is_exact(land):
    lines = b'{"InvoiceNo":"1","quantity":1}\n{"invoice_no":"2","Quantity":2}\n'
    lines += b'{"InvoiceNo":"3","invoice_no":"4","quantity":3}\n{"InvoiceNo":"5","INVOICE_NO":"6","quantity":4}\n'
    landed = land(lines, "a.jsonl")
    assert [(*row[1:3], row[-1]) for row in landed.rows] == [
        ("1", 1, None), ("2", 2, None), ("4", 3, '{"InvoiceNo":"3"}'),
    ]  # fmt: skip
    assert landed.reasons == ["json: invoice_no is given twice, in two spellings"]


def test_a_key_given_twice_is_a_dead_letter(land):
    landed = land(b'{"a":"1","a":"2"}\n{"a":"3"}\n', "a.jsonl", shape=TEXTS)
    assert landed.reasons == ["json: a field is given twice"]
    assert landed.lines == [2]


def test_required_fields_are_asked_of_each_line(land):
    landed = land(b'{"quantity":1}\n{"InvoiceNo":null,"quantity":1}\n{"InvoiceNo":"","quantity":"x"}\n', "a.jsonl")
    assert landed.reasons == [
        "required: invoice_no is missing",
        "required: invoice_no is missing",
        "required: invoice_no is missing; cast: quantity: 'x' is not BIGINT",
    ]
    assert landed.dead[0].raw == '{"quantity":1}'


def test_a_field_that_first_comes_late_is_found(land):
    lines = b'{"InvoiceNo":"1","quantity":1}\n' * 5000 + b'{"InvoiceNo":"1","quantity":1,"Note":"late"}\n'
    assert land(lines, "a.jsonl").rows[-1] == (5001, "1", 1, None, "late", None)


def test_keys_used_as_data_make_the_file_unreadable(land):
    lines = b"".join(b'{"k%d":1}\n' % i for i in range(2001))
    assert land(lines, "a.jsonl").reasons == ["json: 2001 different fields, more than 2000"]


@pytest.mark.parametrize("frame", ["%s\n%s\n%s\n", "[%s,%s,%s]"])
def test_a_key_with_u0000_costs_its_own_record(land, frame):
    data = frame % ('{"a":"1"}', '{"na\\u0000me":"2","a":"3"}', '{"a":"4\\u0000"}')
    landed = land(data.encode(), "a.json" if frame.startswith("[") else "a.jsonl", shape=TEXTS)
    assert [row[1] for row in landed.rows] == ["1", "4\0"]
    assert [(d.line, d.reason, d.raw) for d in landed.dead] == [
        (2, "json: a field has U+0000 in its name", '{"na\\u0000me":"2","a":"3"}')
    ]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "nan", "-inf"])
def test_what_python_writes_instead_of_a_number_is_rescued_as_a_string(land, word):
    landed = land(f'{{"a": "x: NaN", "b": {word}, "c": [1.50, {word}], "d": {{"e": {word}}}}}'.encode(), "a.jsonl",
                  shape=TEXTS)  # fmt: skip
    assert landed.rows == [(1, "x: NaN", word, f'{{"c":[1.50,"{word}"],"d":{{"e":"{word}"}}}}')]


def test_what_python_writes_instead_of_a_number_is_one_in_a_column_of_doubles(land):
    landed = land(b'{"a": NaN}\n{"a": -Infinity}\n', "a.jsonl", shape=RawShape((RawColumn("a", "DOUBLE"),)))
    assert [str(row[1]) for row in landed.rows] == ["nan", "-inf"]


@pytest.mark.parametrize("value", ["9" * 400, "[" * 20_000 + "]" * 20_000, '{"x":1,"x":2}'])
def test_values_beyond_measure_stay_as_they_are(land, value):
    landed = land(f'{{"a":"1","c":{value}}}\n{{"a":"2"}}\n'.encode(), "a.jsonl", shape=TEXTS)
    assert [row[3] for row in landed.rows] == [f'{{"c":{value}}}', None]


@pytest.mark.parametrize("lone", ['{"a":"\\ud800"}', '{"\\udfff":1}'])
def test_a_lone_surrogate_costs_its_own_line(land, lone):
    landed = land(f'{{"a":"1"}}\n{lone}\n{{"a":"2"}}\n'.encode(), "a.jsonl", shape=TEXTS)
    assert landed.lines == [1, 3]
    assert landed.reasons == ["json: malformed"]
