"""The one rule that matches a source's names with a contract's columns. Values are handled elsewhere (`casts`).

A name that equals a column's name letter for letter is that column. Otherwise it is the column if both are equal in
snake case. If two names of one record match the same column, the exact one is the column and the other keeps its own
name; if neither is exact, neither is the column.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

_VARIATION_SELECTORS = ("\ufe00", "\ufe0f")  # they choose how an emoji is drawn


@lru_cache(maxsize=10_000)
def snake_case(name: str) -> str:
    """Write a field's name as a contract does.

    `InvoiceNo`, `invoice no` and `INVOICE_NO` become `invoice_no`; `CustomerID` becomes `customer_id`, `UnitPriceGBP`
    becomes `unit_price_gbp`, `HTTPStatus` becomes `http_status`. Letters of any script stay, with the marks on them
    (Hindi, Thai), composed as in Unicode's NFC; any other character counts as a space.
    """
    text = re.sub(r"_+", "_", "".join(_kept(unicodedata.normalize("NFC", name.strip()))))
    text = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", text)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    leading = "_" if text.startswith("_") else ""
    return leading + re.sub(r"_+", "_", text).strip("_").lower()


def _kept(text: str) -> Iterable[str]:
    was_kept = False
    for character in text:
        is_mark = unicodedata.category(character).startswith("M")
        if is_mark and _VARIATION_SELECTORS[0] <= character <= _VARIATION_SELECTORS[1]:
            continue
        was_kept = character.isalnum() or (is_mark and was_kept)
        yield character if was_kept else "_"


class Columns:
    """The columns of a contract, by every name that a source may give them."""

    def __init__(self, names: Iterable[str]) -> None:
        """Start with the contract's names."""
        self.names: set[str] = set()
        self._by_snake_case: dict[str, str] = {}
        for name in sorted(names):
            self.add(name)

    def add(self, name: str) -> None:
        """Add one more name."""
        self.names.add(name)
        self._by_snake_case.setdefault(snake_case(name), name)

    def column(self, name: str) -> str | None:
        """Find the column that a source's name matches; None if it matches no column."""
        return name if name in self.names else self._by_snake_case.get(snake_case(name))


class Keys(tuple[str, ...]):
    """Columns that name a row, and the contract whose names the row's columns get."""

    columns: Columns | None = None

    @classmethod
    def of(cls, keys: Sequence[str], columns: Iterable[str]) -> "Keys":
        """Return the keys together with all columns of the contract."""
        found = cls(keys)
        found.columns = Columns(columns)
        return found


def renamed(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Rename a source's columns to the contract's names; columns that the contract does not know keep their names.

    Args:
        names: Names of the source's columns.
        keys: Keys of the table; plain ones have no contract and rename nothing.
    """
    columns = keys.columns if isinstance(keys, Keys) else None
    if columns is None or columns.names.issuperset(names):
        return list(names)
    taken = clashes(names, keys)
    present = set(names)
    found = []
    for name in names:
        column = columns.column(name)
        is_taken = column is None or (column != name and column in present) or column in taken
        found.append(name if is_taken or column is None else column)
    return found


def clashes(names: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """Return each column that several names match, none of them exactly, with these names."""
    columns = keys.columns if isinstance(keys, Keys) else None
    found: dict[str, list[str]] = {}
    for name in names if columns else ():
        column = columns.column(name) if columns else None
        if column is not None and column not in names:
            found.setdefault(column, []).append(name)
    return {column: same for column, same in found.items() if len(same) > 1}


def clash_text(found: dict[str, list[str]]) -> str:
    """Describe which names match the same column."""
    return "; ".join(f"{' and '.join(map(repr, same))} are both {column}" for column, same in found.items())
