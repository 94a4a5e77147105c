"""Weigh whether lines are records between two stray quotes, or a text: a text may have a delimiter in each line, too.

Given are the odds of the two, as logarithms that add up: of the number of values with line ends that the file has, of
the delimiters in each line, of the fields that are in quotes, and of what each field looks like (`C0012` is a letter
and digits) beside the records around. Does not hold what follows from the odds (`csv_damage`).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_assets.ingest.files.formats.csv_fields import Field

Fields = Sequence[Field | None]
"""A record's fields; None: unknown."""

_WORDS, _DIGITS = re.compile(rb"[A-Za-z\x80-\xff][A-Za-z\x80-\xff .'-]*"), re.compile(rb"\d+")
_LONGEST = 40  # bytes that are looked at

# How often what stands between two delimiters of a text looks so. Words are found everywhere, so they prove little.
_IN_TEXTS = {b"a": 0.9, b"": 0.15, b"9": 0.1}
_SPACE_FIRST, _OTHER = 0.3, 0.05
_BY_CHANCE = 0.03  # of the texts with line ends have the delimiters of records in each of their lines
_ONE_IN_FIFTY = 0.02  # fields of either kind that are reckoned with before one is seen
_QUOTED = 0.02  # of what stands between two delimiters of a text is in quotes
_PAIRS, _TEXTS = 0.5, 0.02  # of stray quotes, and texts by chance, that a file has before anything is known of it
_FURTHER = 1.0  # how much each further doubtful value tells that none is damage: it would take two stray quotes, too


@dataclass(frozen=True)
class Counts:
    """Records of a file.

    Attributes:
        records: All of them.
        values: Those of several lines that cannot be records.
        doubtful: Those of which each line could be one.
    """

    records: int
    values: int
    doubtful: int


def odds_of_counts(counts: Counts, lines: int, columns: int) -> float:
    """Give the odds that the lines of a doubtful value are records, by what the file's other records are."""
    others = counts.doubtful - 1
    plain = (
        1 - (counts.values + others) / counts.records
    )  # the share of records without line ends: here is a run of them
    odds = math.log(_PAIRS) + lines * math.log(max(plain, _TEXTS))
    if columns == 1:  # any value is doubtful, so the texts are not by chance
        return odds
    expected = min(_TEXTS + _BY_CHANCE * counts.values + others, counts.doubtful)
    return odds - math.log(expected) - _FURTHER * min(others, 10)


def odds_of_delimiters(lines: int, columns: int) -> float:
    """Give the odds that lines are records, as each of them has the delimiters of one."""
    return -math.log(0.2 + 0.8 * 0.5**lines) if columns > 1 else 0.0


def odds_of_quotes(lines: Sequence[Fields], around: Sequence[Fields]) -> float:
    """Give the odds that lines are records, by their fields in quotes: who quotes all fields does so in each record.

    Args:
        lines: Fields of lines that may be records, or may be a text.
        around: Fields of records, and of the header.
    """
    known = [field.is_quoted for fields in around for field in fields if field]
    share = (sum(known) + _ONE_IN_FIFTY) / (len(known) + 2 * _ONE_IN_FIFTY)
    quoted, plain = math.log(share / _QUOTED), math.log((1 - share) / (1 - _QUOTED))
    odds = 0.0
    for fields in lines:  # the fields of one line tell of each other
        found = [quoted if field.is_quoted else plain for field in fields if field]
        odds += sum(found) / len(found) if found else 0.0
    return odds


def odds_of_looks(lines: Sequence[Fields], around: Sequence[Fields], columns: int) -> float:
    """Give the odds that lines are records, by what their fields look like.

    Args:
        lines: Fields of lines that may be records, or may be a text.
        around: Fields of records.
        columns: Their number.
    """
    odds = 0.0
    for column in range(columns):
        looks = [_look(field.text) for fields in lines if (field := fields[column]) is not None]
        known = Counter(_look(field.text) for fields in around if (field := fields[column]) is not None)
        if looks and known:
            odds += _likelihood(looks, known) - _likelihood(looks, Counter())
    return odds


def _look(field: bytes) -> bytes:
    if not field.strip():
        return b""
    return _DIGITS.sub(b"9", _WORDS.sub(b"a", field[:_LONGEST]))


def _share_in_texts(look: bytes) -> float:
    return _IN_TEXTS.get(look, _SPACE_FIRST if look.startswith(b" ") else _OTHER)


def _likelihood(looks: Sequence[bytes], known: Counter[bytes]) -> float:
    """Logarithm; each look tells of the next, in a text as in records."""
    found, odds = known.copy(), 0.0
    for look in looks:
        share, total = _share_in_texts(look), found.total() + 1
        # Where many look like no other, one that looks new is no great surprise.
        new = min(sum(count == 1 for count in found.values()) / total / 2, share)
        odds += math.log(max((share + found[look]) / total, new))
        found[look] += 1
    return odds
