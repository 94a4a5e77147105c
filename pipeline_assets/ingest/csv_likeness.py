"""Tell whether lines without types look like the records around them: a poem has delimiters, too, but not theirs."""

from collections.abc import Sequence
from typing import Literal

Fields = Sequence[bytes | None]
"""A record's fields; None: unknown."""

_LEAST_SHARE = 0.2  # of the records around; less is an exception, which not all of several lines have

_Looks = Literal["empty", "space", "digits", "text"]


def _looks(field: bytes) -> _Looks:
    if not field.strip():
        return "empty"
    if field.startswith(b" "):
        return "space"  # prose has one after its commas
    return "digits" if field.strip().isdigit() else "text"


def are_like(lines: Sequence[Fields], around: Sequence[Fields], columns: int) -> bool:
    """Whether what all lines have in a column is nothing rare in the records around.

    Args:
        lines: Fields of lines that may be records, or may be a text.
        around: Fields of records; where none has a column, it is taken to be filled and not to begin with a space.
        columns: Their number.
    """
    for column in range(columns):
        found = {_looks(fields[column] or b"") for fields in lines}
        if len(found) > 1:
            continue  # a text has it in each line
        (all_,) = found
        known = [_looks(field) for fields in around if (field := fields[column]) is not None]
        if (known and known.count(all_) < _LEAST_SHARE * len(known)) or (not known and all_ in ("empty", "space")):
            return False
    return True
