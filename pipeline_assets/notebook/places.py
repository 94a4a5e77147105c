"""Turns the paths that a notebook gives into places of a lake.

Credentials come from the environment and are never shown.
"""

import os
import re
from pathlib import Path

from pipeline_assets.lake import Lake, Table
from pipeline_assets.notebook.frames import NotebookError

# The names that every client of S3 knows; AWS_ENDPOINT_URL and AWS_ALLOW_HTTP=true for a server that is not Amazon's.
_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_DEFAULT_REGION": "region",
    "AWS_REGION": "region",
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ALLOW_HTTP": "allow_http",
}


def lake_at(path: str | Path) -> Lake:
    """Return the lake at a path.

    Args:
        path: A folder, relative to the working directory, or `s3://bucket/prefix`, with the `AWS_*` variables.

    Raises:
        NotebookError: It is neither.
    """
    text = str(path).strip() if isinstance(path, str | Path) else ""
    has_scheme = re.match(r"\w+:", text)
    if not text or (has_scheme and not re.match("s3://[^/]|file:///", text)):
        raise NotebookError(f"{path!r} cannot hold tables: give a folder, or s3://bucket/prefix")
    if text.startswith("s3:"):
        return Lake(
            text.rstrip("/"), {name: os.environ[key] for key, name in _VARIABLES.items() if os.environ.get(key)}
        )
    return Lake(str(Path(text.removeprefix("file://")).expanduser().resolve()))


def table_at(path: str | Path) -> Table:
    """Return the Delta table whose root is a path. Arguments and errors as for `lake_at`."""
    lake = lake_at(path)
    return Table(lake, lake.uri, root=lake.uri)
