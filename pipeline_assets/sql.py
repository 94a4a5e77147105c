"""Quotes names and values for SQL text. This is the only module that quotes, and it does nothing else."""

from collections.abc import Iterable


def quote_name(name: str) -> str:
    """Quote a table or column name: `"a"`."""
    return '"' + name.replace('"', '""') + '"'


def quote_names(names: Iterable[str]) -> str:
    """Quote names as a list: `"a", "b"`."""
    return ", ".join(map(quote_name, names))


def quote_text(text: str) -> str:
    """Quote a string literal: `'a'`."""
    return "'" + text.replace("'", "''") + "'"
