"""Where a lake may lie.

It is separate from `lake`, which loads DuckDB and Arrow: every process asks this at its start.
"""

import re

# Characters that one of the readers (DuckDB, delta-rs, our log entries) takes for something else: an escaped character,
# a folder, a part of a query. All must find the same file. Tried with all of them, on disk and on S3.
_MISREAD = re.compile(r"[%\\\x00-\x1f]")
_MISREAD_IN_URI = re.compile(r"[%\\#?\x00-\x1f]|(?<!:)//")


def refusal(uri: str) -> str | None:
    """Say why tables below a path or URI could not be found again; return None if they can."""
    wrong = (_MISREAD_IN_URI if "://" in uri else _MISREAD).search(uri)
    if wrong is None:
        return None
    return (
        f"a lake cannot lie at {uri!r}: {wrong[0]!r} in its path is misread by some readers of Delta tables. "
        "Rename the folder, or choose another"
    )
