"""How `pipeline demo` shows what it is at: spinners on a terminal, elsewhere one line for each step."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Step = Callable[[str], AbstractContextManager[Callable[[str], None]]]
"""Shows a step while its block lasts; the block gets what adds a word to the step's text."""


@contextmanager
def steps(console: Console) -> Iterator[Step]:
    """Show steps for as long as the block lasts.

    Args:
        console: Where.
    """
    if not console.is_terminal:
        yield lambda text: _line(console, text)
        return
    with Progress(
        SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    ) as progress:
        yield lambda text: _task(progress, text)


@contextmanager
def _task(progress: Progress, text: str) -> Iterator[Callable[[str], None]]:
    task = progress.add_task(text, total=1)
    yield lambda more: progress.update(task, description=f"{text}, {more}")
    progress.update(task, completed=1)


@contextmanager
def _line(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Print the text at once, and at the end what was added and the seconds."""
    began = time.monotonic()
    added: list[str] = []
    console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
    yield added.append
    more = "".join(f", {word}" for word in added)
    console.print(f"{more} ({time.monotonic() - began:.1f} s)", markup=False, highlight=False, soft_wrap=True)
