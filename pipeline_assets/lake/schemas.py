"""Comparing schemas: what a table has and what rows bring. Nothing is read or written here."""

from collections.abc import Mapping

from deltalake import Schema


def types(schema: Schema) -> dict[str, str]:
    """Column name to Delta type, as text, in order."""
    return {column.name: str(getattr(column.type, "type", column.type)) for column in schema.fields}


def misfits(wanted: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Says what keeps rows out of a table.

    Args:
        wanted: `types` of the table.
        given: `types` of the rows.
    """
    problems = [f"column {name} is missing" for name in wanted if name not in given]
    problems += [f"column {name} is new ({kind})" for name, kind in given.items() if name not in wanted]
    problems += [
        f"column {name} is {given[name]}, the table has {kind}"
        for name, kind in wanted.items()
        if name in given and given[name] != kind
    ]
    return problems
