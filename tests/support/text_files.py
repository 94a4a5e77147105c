"""CSV files of which all columns are text, with line ends in values and with stray quotes, and what each line holds."""

import csv
import io
import random
from collections.abc import Callable
from dataclasses import dataclass

_Style = Callable[[random.Random, int], str]

STYLES: tuple[_Style, ...] = (
    lambda _, number: str(number),
    lambda _, number: f"C{number:05}",
    lambda chance, _: chance.choice(("red", "green", "blue")),
    lambda chance, _: chance.choice(("Ann", "Bob Lee", "Zoë", "J. Doe", "Mary-Jane")),
    lambda chance, _: f"{chance.randint(1, 99)} Main St",
    lambda chance, _: f"{chance.randint(0, 999)}.{chance.randint(0, 99):02}",
    lambda chance, _: f"2026-01-{chance.randint(1, 28):02}",
    lambda chance, _: chance.choice(("", "", "yes")),
    lambda chance, _: chance.choice(("", "no", "yes, but", 'say "hi"')),
    lambda chance, _: " " + chance.choice(("padded", "also")),
    lambda _, __: "",
)

TEXTS = (
    "1 Main St\nSpringfield, IL\nUSA",
    "Ann Lee,\n1 Main St,\nSpringfield,\nIllinois,\nUSA",
    "Dear Ann,\n\nI came, I saw.\nWe, too.\n\nYours,\nBob",
    "one\ntwo",
    "One, two\nthree, four",
    '<ul class="a">\n<li>a, b</li>\n<li>c, d</li>\n</ul>',
    "a,b\n1,2\n3,4\n5,6\n7,8\n",
    "a,b\n1,2\n3,4\ntotal",
    "a,b,c\n1,2,3\n4,5,6\n7,8,9\n",
    "Numbers\none,\ntwo,\nthree,\nfour,",
    "SELECT a,\nb,\nc,\nd,\ne\nFROM t",
    "\n\nx",
    "x\n",
)


@dataclass(frozen=True)
class Written:
    """A record as it was written: its first physical line, how many it has, and its fields."""

    line: int
    lines: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class TextFile:
    """A file and what is known of it without any reader.

    Attributes:
        header: Its columns.
        content: The bytes.
        records: The records that no stray quote has hit.
        hit: The lines that have one.
    """

    header: tuple[str, ...]
    content: bytes
    records: tuple[Written, ...]
    hit: frozenset[int]


def good_file(chance: random.Random, columns: int, share: float) -> TextFile:
    """A file without damage, of which a share of the values in one column has line ends.

    Args:
        chance: Where the choices come from.
        columns: How many.
        share: Of the records.
    """
    header = tuple(f"c{number}" for number in range(columns))
    styles = [chance.choice(STYLES[:3]), *(chance.choice(STYLES) for _ in header[1:])]
    chance.shuffle(styles)
    column, texts = chance.randrange(columns), chance.sample(TEXTS, chance.choice((1, 1, 3, len(TEXTS))))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    records, line = [], 2
    for number in range(chance.randint(5, 60)):
        fields = [style(chance, 1000 + number) for style in styles]
        if chance.random() < share:
            fields[column] = chance.choice(texts)
        lines = sum(field.count("\n") for field in fields) + 1
        if columns > 1 or fields[0]:
            writer.writerow(fields)
            records.append(Written(line, lines, tuple(fields)))
            line += lines
    return TextFile(header, text.getvalue().encode(), tuple(records), frozenset())


def with_two_stray_quotes(chance: random.Random, file: TextFile) -> TextFile:
    """The file with a quote that opens a field of one line, and one that closes the same field of a later line."""
    lines = file.content.split(b"\n")
    plain = [record for record in file.records if record.lines == 1 and b'"' not in lines[record.line - 1]]
    if len(plain) < 2:
        return file
    first, last = sorted(chance.sample(plain, 2), key=lambda record: record.line)
    column = chance.randrange(len(file.header))
    for record, mark in ((first, '"{}'), (last, '{}"')):
        fields = [mark.format(field) if at == column else field for at, field in enumerate(record.fields)]
        lines[record.line - 1] = ",".join(fields).encode()
    hit = frozenset((first.line, last.line))
    kept = tuple(record for record in file.records if record.line not in hit)
    return TextFile(file.header, b"\n".join(lines), kept, hit)
