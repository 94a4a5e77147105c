"""The demo: a shop whose real transactions land as files. Nothing of the pipeline depends on it."""

from enum import StrEnum


class Way(StrEnum):
    """A way in that the demo can show alone."""

    FILES = "files"
    CHANGES = "changes"
    PULLS = "pulls"
