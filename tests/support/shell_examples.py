"""Commands of the documentation: taken apart, and held against the programs that they name, without running them."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import typer
from dagster._cli import create_dagster_cli
from dagster_dg_cli.cli import create_dg_cli
from dbt.cli.main import cli as dbt_cli
from documents import ROOT, blocks

from pipeline_assets.cli import app


def commands(page: Path) -> Iterator[tuple[int, str]]:
    """The commands in a page's console blocks, with the line's number."""
    for block in blocks(page):
        if block.language == "console":
            for at, line in enumerate(block.text.splitlines(), block.line + 1):
                if line.startswith("$ "):
                    yield at, line.removeprefix("$ ")


def words(command: str) -> list[list[str]]:
    """The words of each command between `&&`; comments are left out."""
    found: list[list[str]] = [[]]
    for word in shlex.split(command, comments=True):
        found.append([]) if word == "&&" else found[-1].append(word)
    return found


def problem(command: list[str]) -> str | None:
    """What is wrong with a command: an unknown program, target, subcommand or option."""
    program, *rest = command
    if program == "cd":
        return None if (ROOT / rest[0]).is_dir() else f"there is no folder {rest[0]}"
    if program == "make":
        return next((f"there is no target {word}" for word in rest if word not in targets()), None)
    known = programs()
    name = program.removeprefix("../").removeprefix(".venv/bin/")
    if name not in known:
        return f"{program} is none of make, cd, {', '.join(known)}"
    return _unknown(known[name], rest, [name])


@cache
def targets() -> frozenset[str]:
    """The targets of the Makefile that `make` lists."""
    return frozenset(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def programs() -> dict[str, click.Command]:
    """The programs that come with the package."""
    found = {"pipeline": typer.main.get_command(app), "dagster": create_dagster_cli(), "dg": create_dg_cli()}
    return {**found, "dbt": dbt_cli}


def _unknown(command: click.Command, rest: list[str], path: list[str]) -> str | None:
    context = click.Context(command, info_name=path[-1])
    # Not isinstance(): typer has a click of its own.
    if hasattr(command, "list_commands") and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            known = ", ".join(command.list_commands(context))
            return f"{' '.join(path)} has no command {rest[0]}; it has {known}"
        return _unknown(found, rest[1:], [*path, rest[0]])
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    wrong = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in options]
    return f"{' '.join(path)} has no option {', '.join(wrong)}" if wrong else None
