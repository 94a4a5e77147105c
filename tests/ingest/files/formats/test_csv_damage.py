"""A stray quote costs its own line and no other; a value with line ends is one value, whatever it holds."""

import csv
import gzip
import io
import itertools
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats import csv_damage, csv_fields, csv_lines
from pipeline_assets.ingest.files.formats.csv_fields import kind_of
from pipeline_assets.ingest.files.formats.csv_prefix import Prefix

SHAPE = RawShape(
    (
        RawColumn("id", "BIGINT", required=True),
        RawColumn("name", "VARCHAR"),
        RawColumn("amount", "DECIMAL(12,2)"),
        RawColumn("day", "DATE"),
    )
)
TEXTS = RawShape((RawColumn("id", "VARCHAR"), RawColumn("name", "VARCHAR"), RawColumn("note", "VARCHAR")))
TWO_TEXTS = RawShape(TEXTS.columns[:2])
HEADER = b"id,name,amount,day\n"


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def line(number: int, name: str | None = None) -> bytes:
    return f"{number},{name or f'name {number}'},{number}.50,2026-01-05\n".encode()


def file(*lines: bytes, count: int = 9) -> bytes:
    """Nine good lines, of which some are others: those that begin with the same number."""
    other = {int(text.split(b",")[0].strip(b'"')): text for text in lines}
    return HEADER + b"".join(other.get(number, line(number)) for number in range(1, count + 1))


@pytest.mark.parametrize(
    ("damaged", "dead"),
    [
        pytest.param([b'2,"name 2,2.50,2026-01-05\n'], [2], id="never closed"),
        pytest.param([b'2,"name 2,2.50,2026-01-05\n', b'7,"name 7,7.50,2026-01-05\n'], [2, 7], id="two of them"),
        pytest.param([b'2,"name 2,2.50,2026-01-05\n', b'7,name 7",7.50,2026-01-05\n'], [2], id="as if it were closed"),
        pytest.param([b'2,"name 2,2.50,2026-01-05\n', b'3,name 3",3.50,2026-01-05\n'], [2], id="in the next line"),
        pytest.param([b'2,name 2,"2.50,2026-01-05\n', b'7,name 7,7.50",2026-01-05\n'], [2, 7], id="around a number"),
        pytest.param([b'2,"name 2,2.50,2026-01-05\n', b'7,",7.50,2026-01-05\n'], [2, 7], id="an empty value after"),
        pytest.param([b'2,na"me 2,2.50,2026-01-05\n'], [], id="inside an unquoted value it is text"),
        pytest.param([b'2,"name" 2,2.50,2026-01-05\n'], [2], id="text after a closing quote"),
        pytest.param([b'2,"name 2"",2.50,2026-01-05\n'], [2], id="a doubled quote at the end"),
        pytest.param([b'1,"name 1,1.50,2026-01-05\n'], [1], id="the first line"),
        pytest.param([b'9,"name 9,9.50,2026-01-05'], [9], id="the last line, without its end"),
        pytest.param([b'9,name 9,9.50,"2026-01-05'], [9], id="just before the end"),
        pytest.param([b'"2,name 2,2.50,2026-01-05\n', b'7,name 7,7.50,2026-01-05"\n'], [2, 7], id="a line's edges"),
        pytest.param([f'{n},"name,{n},2026-01-05\n'.encode() for n in range(1, 10)], list(range(1, 10)), id="each"),
    ],
)
@pytest.mark.parametrize(
    ("newline", "pack"),
    [(b"\n", bytes), (b"\r\n", gzip.compress), (b"\r", zstd)],
)
def test_a_stray_quote_costs_its_own_line(land, damaged, dead, newline, pack):
    data = file(*damaged).replace(b"\n", newline)
    landed = land(pack(b"\xef\xbb\xbf" + data), shape=SHAPE)
    assert [letter.line - 1 for letter in landed.dead] == dead
    assert [row[1] for row in landed.rows] == [n for n in range(1, 10) if n not in dead]
    assert landed.lines == [row[1] + 1 for row in landed.rows]
    lines = data.split(newline)
    assert [letter.raw for letter in landed.dead if letter.reason.startswith("csv: ")] == [
        lines[letter.line - 1].decode() for letter in landed.dead if letter.reason.startswith("csv: ")
    ]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_any_delimiter(land, separator):
    data = file(b'2,"name 2,2.50,2026-01-05\n', b'7,name 7",7.50,2026-01-05\n')
    landed = land(data.replace(b",", separator.encode()), shape=SHAPE, delimiter=separator)
    assert ([letter.line for letter in landed.dead], len(landed.rows)) == ([3], 8)


def test_mixed_line_ends_and_a_lone_carriage_return_cost_their_line(land):
    data = HEADER + line(1) + line(2).replace(b"\n", b"\r\n") + b'3,"name 3,3,2026-01-05\r\n' + line(4)
    data += line(5).replace(b"name", b"na\rme") + line(6) + b'7,"a\r\nb",7,2026-01-05\n'
    landed = land(data, shape=SHAPE)
    assert [row[1] for row in landed.rows] == [1, 2, 4, 6, 7]
    assert landed.lines == [2, 3, 5, 7, 8]
    assert [letter.line for letter in landed.dead] == [4, 6]


def test_a_single_column_of_numbers(land):
    shape = RawShape((RawColumn("id", "BIGINT", required=True),))
    landed = land(b'id\n1\n"2\n3\n4"\n5\n', shape=shape)
    assert [row[1] for row in landed.rows] == [1, 3, 5]
    assert [letter.line for letter in landed.dead] == [3, 5]


def test_a_single_column_of_text_that_is_never_closed(land):
    shape = RawShape((RawColumn("name", "VARCHAR"),))
    landed = land(b'name\na\n"b\nc\n', shape=shape)
    assert [row[1] for row in landed.rows] == ["a", "c"]
    assert [letter.line for letter in landed.dead] == [3]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("two\nlines", id="two lines"),
        pytest.param('a, "b",\nc, d', id="delimiters and quotes"),
        pytest.param("line\n" * 5000, id="many lines"),
        pytest.param("see:\n3,name 3,3.50,2026-01-05\n4,name 4,4.50,2026-01-05\nend", id="it quotes records"),
        pytest.param("\n3,name 3,3.50,2026-01-05\n4,name 4,4.50,2026-01-05\n", id="it quotes nothing else"),
        pytest.param('"3","name 3","3.50","2026-01-05"\n"4","name 4","4.50","2026-01-05"', id="it quotes quoted ones"),
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, TEXTS])
def test_a_value_with_line_ends_is_one_value(land, value, shape):
    names = [column.name for column in shape.columns]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    rows = [dict(zip(names, ("1", value, "1.50", "2026-01-05"), strict=False)), {"id": "2", "name": "x"}]
    writer.writerows([names, *([row.get(name, "") for name in names] for row in rows)])
    landed = land(text.getvalue().encode(), shape=shape)
    assert landed.dead == []
    assert [row[2] for row in landed.rows] == [value, "x"]


def test_text_with_a_stray_quote_is_dead_line_by_line(land):
    data = HEADER + line(1) + b'2,"text\nwith "a" quote\nin it",2.50,2026-01-05\n' + line(3)
    landed = land(data, shape=SHAPE)
    assert [row[1] for row in landed.rows] == [1, 3]
    assert [letter.line for letter in landed.dead] == [3, 4, 5]


def test_texts_without_types_need_more_evidence(land):
    good = [b"%d,name,note\n" % n for n in range(1, 10)]
    good[1], good[7] = b'2,"name,note\n', b'8,name",note\n'
    landed = land(b"id,name,note\n" + b"".join(good), shape=TEXTS)
    assert [letter.line for letter in landed.dead] == [3]
    assert [row[1] for row in landed.rows] == ["1", "3", "4", "5", "6", "7", "8", "9"]


TEXTS_OF_ALL_KINDS = {
    "an address": "1 Main St\nSpringfield, IL\nUSA",
    "an address, a comma a line": "Ann Lee,\n1 Main St,\nSpringfield,\nIllinois,\nUSA",
    "a comment": "Good, really\nFast, too\nCheap, also\nBuy it, all\nBye",
    "a letter": "Dear Ann,\n\nI came, I saw.\nWe, too.\n\nYours,\nBob",
    "HTML": '<ul class="a">\n<li>a, b</li>\n<li>c, d</li>\n<li>e, f</li>\n</ul>',
    "a stack trace": 'Traceback:\n  File "a.py", line 1\n  File "b.py", line 2\n  File "c.py", line 3\nValueError: x',
    "CSV": "a,b\n1,2\n3,4\n5,6\n7,8",
    "CSV with a line end": "a,b\n1,2\n3,4\n5,6\n7,8\n",
    "CSV, a total": "a,b\n1,2\n3,4\n5,6\n7,8\ntotal",
    "CSV of three": "a,b,c\n1,2,3\n4,5,6\n7,8,9\n",
    "quoted CSV": '"a","b"\n"1","2"\n"3","4"\n"5","6"\n',
    "a poem": "One,\ntwo,\nthree,\nfour,\nfive",
    "a poem, a comma in the end": "One,\ntwo,\nthree,\nfour,\nfive,",
    "a poem and a line end": "One,\ntwo,\nthree,\nfour,\nfive,\n",
    "a poem with a title": "Numbers\none,\ntwo,\nthree,\nfour,",
    "a poem, two commas": "One, two,\nthree, four,\nfive, six,\nseven, eight,\nnine",
    "blank lines": "\n\n\n",
    "blank lines before": "\n\nx",
    "commas": ",\n,\n,\n,\n",
    "JSON": '{"a": 1,\n"b": 2,\n"c": 3,\n"d": 4\n}',
    "SQL": "SELECT a,\nb,\nc,\nd,\ne\nFROM t",
    "a list": "- a, b\n- c, d\n- e, f\n- g, h\n",
    "code": "f(a, b)\nf(c, d)\nf(e, f)\nf(g, h)\nend",
}


@pytest.mark.parametrize("value", TEXTS_OF_ALL_KINDS.values(), ids=TEXTS_OF_ALL_KINDS)
def test_a_text_in_a_file_of_texts_is_one_value(land, tmp_path, value):
    for columns, quoting in itertools.product((2, 3), (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)):
        plain = [f"x{column}" for column in range(columns)]
        for column in range(columns):
            record = [*plain[:column], value, *plain[column + 1 :]]
            for rows in ([record] * 12, [plain, record, plain, record, record], [record, *[plain] * 5]):
                path = tmp_path / "b.csv"
                path.write_bytes(written([["id", "name", "note"][:columns], *rows], quoting))
                finder = csv_damage.DamageFinder(b",", [csv_fields.TEXT] * columns)
                assert list(csv_damage.find_damage(path, read_content(path), finder, 1)) == []
    landed = land(written([["id", "name"], *[[value, "x"]] * 12]), shape=TWO_TEXTS)
    assert landed.dead == []
    assert [row[1:3] for row in landed.rows] == [(value, "x")] * 12


def written(rows: list[list[str]], quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


@pytest.mark.parametrize(
    "good",
    [
        pytest.param([b"%d,name", b"%d,"], id="some are empty"),
        pytest.param([b"%d,"], id="all are empty"),
        pytest.param([b"%d, name"], id="a space before"),
        pytest.param([b"%d,name"], id="digits before"),
        pytest.param([b"c%d,name"], id="letters before"),
    ],
)
def test_two_stray_quotes_among_texts_cost_their_lines(land, good):
    lines = [good[n % len(good)] % n for n in range(12)]
    lines[2] = lines[2].replace(b",", b',"')
    lines[8] += b'"'
    landed = land(b"id,name\n" + b"\n".join(lines) + b"\n", shape=TWO_TEXTS)
    assert landed.lines == [line for line in range(2, 14) if line not in {letter.line for letter in landed.dead}]
    assert {letter.line for letter in landed.dead} <= {4, 10}


@pytest.mark.parametrize(
    "blank",
    [b'"\n\n\n",x', b'x,"\n\n\n"', b'"\n",x', b'x,"\n"', b'"\r\n\r\n",x'],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_a_value_of_blank_lines_survives_a_stray_quote_before_it(land, blank, quoted):
    stray = b'"1","b' if quoted else b'1,"b'
    landed = land(b"id,name\n0,a\n" + stray + b"\n" + blank + b"\n3,c\n4,d\n", shape=TWO_TEXTS)
    (value,) = csv.reader(io.StringIO(blank.decode(), newline=""))
    assert [list(row[1:3]) for row in landed.rows] == [["0", "a"], value, ["3", "c"], ["4", "d"]]
    assert [letter.line for letter in landed.dead] == [3]


@dataclass(frozen=True)
class Record:
    """What was written, on which lines: the oracle knows nothing of how a file is read."""

    first: int
    lines: int
    row: tuple[Any, ...]


def write(rng: random.Random, count: int, newline: str, quoting: int) -> tuple[list[bytes], list[Record]]:
    """Writes good records, some with line ends in them; gives the physical lines, and the records."""
    words = ["Ann", "Bob", "a, b", 'say "hi"', "", "x\ny", "one,\ntwo, three\n4", 'q"\n"r']
    text, records = io.StringIO(newline=""), []
    writer = csv.writer(text, lineterminator=newline, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(["id", "name", "amount", "day"])
    for number in range(count):
        first = text.getvalue().count("\n") + 1
        name = rng.choice(words).replace("\n", newline)
        writer.writerow([number, name, f"{number}.5", "2026-01-05"])
        records.append(Record(first, text.getvalue().count("\n") + 1 - first, (number, name or None)))
    return text.getvalue().encode().splitlines(keepends=True), records


@pytest.mark.parametrize("seed", range(25))
def test_every_other_line_is_in_the_table_wherever_quotes_are_put(land, seed):
    rng = random.Random(seed)
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    lines, records = write(rng, rng.randint(5, 60), rng.choice(["\n", "\r\n"]), quoting)
    hit = {record.first for record in records if record.lines == 1 and rng.random() < rng.choice([0.05, 0.3])}
    for number in hit:
        own = lines[number - 1].rstrip(b"\r\n")
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randint(0, len(own))
            own = own[:at] + b'"' + own[at:]
        lines[number - 1] = own + lines[number - 1][len(lines[number - 1].rstrip(b"\r\n")) :]
    landed = land(b"".join(lines), shape=SHAPE)
    found = {row[0]: row[1:3] for row in landed.rows}
    assert {r.first: r.row for r in records if r.first not in hit}.items() <= found.items()
    dead = {letter.line for letter in landed.dead}
    assert dead <= hit
    assert dead | found.keys() == {record.first for record in records}
    assert len(landed.dead) + len(landed.rows) == len(records)


def test_of_two_hundred_thousand_lines_with_damage_all_good_ones_are_in_the_table(land, monkeypatch):
    parse, peek, parsed, looks = csv_damage.parse, csv_lines.Window.peek, [], []
    monkeypatch.setattr(csv_damage, "parse", lambda *args, **given: parsed.append(1) or parse(*args, **given))
    monkeypatch.setattr(csv_lines.Window, "peek", lambda window, at: looks.append(1) or peek(window, at))
    count = 200_000
    texts = (line(n, f'"5"" {n}' if n % 100 == 0 else f"5 {n}" if n % 3 else f'"a"" {n}"') for n in range(count))
    landed = land(HEADER + b"".join(texts), shape=SHAPE)
    assert [row[1] for row in landed.rows] == [n for n in range(count) if n % 100]
    assert [letter.line for letter in landed.dead] == list(range(2, count + 2, 100))
    # Where a swallowed block ends is found once for all its lines.
    assert len(parsed) < 2 * count
    assert len(looks) < 4 * count


FIELDS = st.text(alphabet=st.sampled_from('aé1,"\n\r '), max_size=6)


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("dtypes", [("BIGINT", "VARCHAR", "BIGINT"), ("VARCHAR",) * 3, ("VARCHAR",), ("BIGINT",)])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_passed_in_bulk_would_not_be_damaged_line_by_line(tmp_path, dtypes, newline, is_strict, data):
    row = st.lists(st.one_of(FIELDS, st.just("1"), st.just("1\n1,1,1\n2,2,2")), min_size=1, max_size=len(dtypes) + 1)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=newline).writerows(data.draw(st.lists(row, min_size=1, max_size=20)))
    written = text.getvalue()
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(written)))
        written = written[:at] + data.draw(st.sampled_from(['"', "\n", "\r", ","])) + written[at:]
    path = tmp_path / "a.csv"
    path.write_bytes(b"header\n" + written.encode())
    kinds = [kind_of(dtype, required=False) for dtype in dtypes]

    def found():
        finder = csv_damage.DamageFinder(b",", kinds, is_strict=is_strict)
        return list(csv_damage.find_damage(path, read_content(path), finder, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lines, "_LEAST_PIECE_BYTES", 8)  # so that pieces end anywhere
        in_bulk = found()
        patch.setattr(csv_lines, "good_prefix", lambda piece, layout: Prefix(0, 0))
        assert in_bulk == found()


def test_values_with_line_ends_are_passed_in_bulk(land, monkeypatch):
    monkeypatch.setattr(csv_damage, "parse", None)  # the closer look would fail
    data = HEADER + b"".join(line(n, f'"street {n}\ncity, ""{n}"""') for n in range(5000))
    landed = land(data.replace(b"\n", b"\r\n"), shape=SHAPE)
    assert [row[2] for row in landed.rows] == [f'street {n}\r\ncity, "{n}"' for n in range(5000)]
    assert landed.lines == list(range(2, 10_002, 2))


def test_a_quote_that_swallows_more_than_a_buffer_costs_its_line(land):
    data = HEADER + line(1) + b'2,"name 2,2.50,2026-01-05\n' + b"".join(line(n, "x" * 1_000_000) for n in range(3, 40))
    landed = land(data, shape=SHAPE)
    assert [letter.line for letter in landed.dead] == [3]
    assert [row[1] for row in landed.rows] == [1, *range(3, 40)]
    assert landed.rows[0][3] == Decimal("1.50")
