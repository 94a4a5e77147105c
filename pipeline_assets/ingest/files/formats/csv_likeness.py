"""Weighs whether lines are records between two stray quotes, or a text, which may have a delimiter in each line, too.

Returns the odds of the two as logarithms that add up. They follow from the number of values with line ends in the file,
the delimiters in each line, the quoted fields, and from the look of each field (`C0012` is a letter and digits) beside
the records around. `csv_damage` decides what follows from the odds.
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
_LONGEST = 40  # bytes that are examined

# How often the text between two delimiters of a text has this look. Words are everywhere, so they prove little.
_IN_TEXTS = {b"a": 0.9, b"": 0.15, b"9": 0.1}
_SPACE_FIRST, _OTHER = 0.3, 0.05
_BY_CHANCE = 0.03  # share of the texts with line ends that have the delimiters of records in each line by chance
_ONE_IN_FIFTY = 0.02  # share of fields of either kind that is assumed before such a field is seen
_QUOTED = 0.02  # share of the parts between two delimiters of a text that are in quotes
# Number of stray quote pairs, and of such texts, that a file is assumed to have before anything is known of it.
_PAIRS, _TEXTS = 0.5, 0.02
_FURTHER = 1.0  # weight of each further doubtful value as a sign of no damage: it would take two stray quotes, too


@dataclass(frozen=True)
class Counts:
    """Number of records in a file.

    Attributes:
        records: All of them.
        values: Those of several lines that cannot be records.
        doubtful: Those of which each line could be a record.
    """

    records: int
    values: int
    doubtful: int


def odds_of_counts(counts: Counts, lines: int, columns: int) -> float:
    """Return the odds that the lines of a doubtful value are records, from the file's other records."""
    others = counts.doubtful - 1
    plain = (
        1 - (counts.values + others) / counts.records
    )  # the share of records without line ends: here is a run of them
    odds = math.log(_PAIRS) + lines * math.log(max(plain, _TEXTS))
    if columns == 1:  # any value is doubtful, so the texts are not there by chance
        return odds
    expected = min(_TEXTS + _BY_CHANCE * counts.values + others, counts.doubtful)
    return odds - math.log(expected) - _FURTHER * min(others, 10)


def odds_of_delimiters(lines: int, columns: int) -> float:
    """Return the odds that lines are records because each has the delimiters of a record."""
    return -math.log(0.2 + 0.8 * 0.5**lines) if columns > 1 else 0.0


def odds_of_quotes(lines: Sequence[Fields], around: Sequence[Fields]) -> float:
    """Return the odds that lines are records, by their quoted fields.

    A writer that quotes all fields does so in each record.

    Args:
        lines: Fields of lines that may be records, or may be a text.
        around: Fields of records, and of the header.
    """
    known = [field.is_quoted for fields in around for field in fields if field]
    share = (sum(known) + _ONE_IN_FIFTY) / (len(known) + 2 * _ONE_IN_FIFTY)
    quoted, plain = math.log(share / _QUOTED), math.log((1 - share) / (1 - _QUOTED))
    odds = 0.0
    for fields in lines:  # the fields of one line are not independent of each other
        found = [quoted if field.is_quoted else plain for field in fields if field]
        odds += sum(found) / len(found) if found else 0.0
    return odds


def odds_of_looks(lines: Sequence[Fields], around: Sequence[Fields], columns: int) -> float:
    """Return the odds that lines are records, by the look of their fields.

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
    """Return the logarithm of the likelihood; each look makes the same look more likely, in a text as in records."""
    found, odds = known.copy(), 0.0
    for look in looks:
        share, total = _share_in_texts(look), found.total() + 1
        # Where many looks occur only once, a new one is no great surprise.
        new = min(sum(count == 1 for count in found.values()) / total / 2, share)
        odds += math.log(max((share + found[look]) / total, new))
        found[look] += 1
    return odds
