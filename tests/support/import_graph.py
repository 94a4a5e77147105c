"""Which folder of the package imports which, as Mermaid draws it."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pipeline_assets"


def edges(inside: Path) -> set[tuple[str, str]]:
    """Pairs of folders directly in one, of which the first imports the second.

    Args:
        inside: A folder of the package. Modules that lie directly in it have no folder there, and are left out.
    """
    found = set()
    above = inside.relative_to(PACKAGE).parts
    for path in inside.rglob("*.py"):
        here = path.parent.relative_to(PACKAGE).parts[: len(above) + 1]
        for module in imported(path):
            there = _folder_of(module)[: len(above) + 1]
            if len(here) == len(there) == len(above) + 1 and there[:-1] == above and here != there:
                found.add(("/".join(here), "/".join(there)))
    return found


def mermaid(pairs: set[tuple[str, str]]) -> str:
    """Draws the pairs."""
    return "\n".join(["flowchart TB", *(f"    {here} --> {there}" for here, there in sorted(pairs)), ""])


def circles(pairs: set[tuple[str, str]]) -> set[str]:
    """Folders that import themselves by way of others."""
    far = set(pairs)
    while more := {(a, d) for a, b in far for c, d in pairs if b == c} - far:
        far |= more
    return {here for here, there in far if here == there}


def imported(path: Path) -> Iterator[str]:
    """Names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _folder_of(name: str) -> tuple[str, ...]:
    """The folder of what `import` names: a package, a module, or something in one of these."""
    first, *parts = name.split(".")
    if first != PACKAGE.name:
        return ()
    while parts and not PACKAGE.joinpath(*parts).is_dir():
        parts.pop()
    return tuple(parts)
