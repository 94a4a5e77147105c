"""What the commands of `pipeline` share: the lake, and how they talk to people and to programs."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table as RichTable

from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings

Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of a table.")]

ROWS_SHOWN = 200

# A value may hold what rich takes for markup, such as [null]. A pipe has no window: lines are not folded.
out = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def lake() -> Lake:
    """Give the lake of the settings."""
    settings = load_settings()
    return Lake(settings.lake_uri, settings.storage_options())


def print_json(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows for programs."""
    # Not printed by rich, which would wrap long lines.
    typer.echo(json.dumps(rows, default=str, indent=None if len(rows) > ROWS_SHOWN else 1))


def print_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] | set[int] = frozenset()
) -> None:
    """Print rows for people; `right` has the numbers of the columns that are numbers."""
    shown = RichTable(box=None, header_style="bold", pad_edge=False)
    for at, name in enumerate(names):
        shown.add_column(name, justify="right" if at in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


def tell(message: str) -> None:
    """Say something beside the output."""
    err.print(message, highlight=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Say what is wrong, and exit."""
    err.print(message, style="red", highlight=False)
    raise typer.Exit(1)
