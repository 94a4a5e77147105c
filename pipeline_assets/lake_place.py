"""Where a lake may lie. Apart from `lake`, which loads DuckDB and Arrow: every process asks this when it starts."""

import re

# What one of those that have to find the same file (DuckDB, delta-rs, our log entries) takes for something else:
# a code of a character, a folder, a part of a query. Tried with all of them, on disk and on S3.
_MISREAD = re.compile(r"[%\\\x00-\x1f]")
_MISREAD_IN_URI = re.compile(r"[%\\#?\x00-\x1f]|(?<!:)//")


def refusal(uri: str) -> str | None:
    """Say why tables below a path or URI could not be found again; None if they could."""
    wrong = (_MISREAD_IN_URI if "://" in uri else _MISREAD).search(uri)
    if wrong is None:
        return None
    return (
        f"a lake cannot lie at {uri!r}: {wrong[0]!r} in its path is not taken as it is by all that read Delta tables. "
        "Rename the folder, or choose another"
    )
