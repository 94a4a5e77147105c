"""One rule for all ways in: which name of a source is which column of a contract. Nothing of values lives here.

A name that is the column's letter for letter is the column. Else it is if both are the same in snake case. Where two
names of one record fall together, the exact one is the column, and the other keeps its own name; of two that are not
exact neither is taken for the other.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

_VARIATION_SELECTORS = ("\ufe00", "\ufe0f")  # how an emoji is drawn


@lru_cache(maxsize=10_000)
def snake_case(name: str) -> str:
    """Give a field's name as a contract writes it.

    `InvoiceNo`, `invoice no` and `INVOICE_NO` are `invoice_no`; `CustomerID` is `customer_id`, `UnitPriceGBP` is
    `unit_price_gbp`, `HTTPStatus` is `http_status`. Letters of any script stay, with the marks on them (Hindi, Thai),
    composed as Unicode's NFC has it; what is neither letter nor digit is a space.
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
        """Takes the contract's names."""
        self.names: set[str] = set()
        self._by_snake_case: dict[str, str] = {}
        for name in sorted(names):
            self.add(name)

    def add(self, name: str) -> None:
        """Takes one name more."""
        self.names.add(name)
        self._by_snake_case.setdefault(snake_case(name), name)

    def column(self, name: str) -> str | None:
        """Give the column that a source's name is; None if it is none."""
        return name if name in self.names else self._by_snake_case.get(snake_case(name))


class Keys(tuple[str, ...]):
    """Columns that name a row, and the contract whose names the row's columns get."""

    columns: Columns | None = None

    @classmethod
    def of(cls, keys: Sequence[str], columns: Iterable[str]) -> "Keys":
        """Gives the keys with all columns of the contract."""
        found = cls(keys)
        found.columns = Columns(columns)
        return found


def renamed(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Gives the names of a source's columns as the contract has them; those that it does not know as they are.

    Args:
        names: Of the source's columns.
        keys: Of the table; plain ones have no contract, and rename nothing.
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
    """Gives columns that several names are, none of them exactly, with these names."""
    columns = keys.columns if isinstance(keys, Keys) else None
    found: dict[str, list[str]] = {}
    for name in names if columns else ():
        column = columns.column(name) if columns else None
        if column is not None and column not in names:
            found.setdefault(column, []).append(name)
    return {column: same for column, same in found.items() if len(same) > 1}


def clash_text(found: dict[str, list[str]]) -> str:
    """Says which names fall together."""
    return "; ".join(f"{' and '.join(map(repr, same))} are both {column}" for column, same in found.items())
