"""The Markdown of README and docs, taken apart: blocks of code, links, anchors, tables, code within lines."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
"""README and the pages of the documentation."""

PAGES = (
    *GUIDES,
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "pipeline_assets").rglob("*.md")),
)
"""All Markdown that people read."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\s*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: The page.
        line: Its first line there, from 1.
        language: `yaml`, `console`, ...; empty if it has none.
        title: What the block is titled: the path of a file of an example.
        text: What is in it, without the indentation of the block.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    opened: tuple[int, re.Match[str]] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is None:
            if match := _FENCE.match(line):
                opened, inside = (number, match), []
        elif line.strip() == "```":
            start, match = opened
            text = "\n".join(each.removeprefix(match["indent"]) for each in inside) + "\n"
            found.append(Block(page, start, match["language"], match["title"] or "", text))
            opened = None
        else:
            inside.append(line)
    assert opened is None, f"{page}: the block in line {opened[0] if opened else 0} is not closed"
    return tuple(found)


def blocks_of(*languages: str) -> list[Block]:
    """The blocks in README and docs that are in one of some languages."""
    return [block for page in GUIDES for block in blocks(page) if block.language in languages]


def prose(page: Path) -> list[str]:
    """The lines of a page; those of its blocks are empty."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        for at in range(block.line - 1, block.line + block.text.count("\n") + 1):
            lines[at] = ""
    return lines


def codes(page: Path) -> Iterator[tuple[int, str]]:
    """Code within the lines of a page, with the line's number."""
    for number, line in enumerate(prose(page), 1):
        yield from ((number, code) for code in _CODE.findall(line))


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Targets of a page's links and pictures, with the line's number."""
    text = _CODE.sub("``", "\n".join(prose(page)))
    for match in _LINK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1]


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link into a page may name: its headings as GitHub and MkDocs spell them, which is the same for ours."""
    found: set[str] = set()
    for line in prose(page):
        if match := re.match(r"^#{1,6} (.+)$", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", "")
            plain = unicodedata.normalize("NFKD", text).lower()
            found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return frozenset(found)


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head; the cells without blanks around."""
    lines = iter(prose(page))
    next(line for line in lines if re.fullmatch(rf"#+ {re.escape(heading)}", line))
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("#"):
            break
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    assert len(rows) > 2, f"no table under {heading!r} in {page}"
    return rows[2:]


def names(cell: str) -> list[str]:
    """What a cell of a table has in code marks."""
    return _CODE.findall(cell)
