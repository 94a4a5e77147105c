"""The documentation quotes no figure but those that a benchmark has written."""

import re
from pathlib import Path

import pytest
from documents import GUIDES, ROOT, prose

from benchmarks import __main__ as benchmarks
from benchmarks import figures

# How measured things are told. Limits and defaults, which are declared, are told otherwise.
_COMPARED = "as|fewer|more|less|faster|slower|the"
_MEASURED = re.compile(
    rf"\d[\d,.]* ?(µs|ms|s CPU|s wall|CPU seconds|times ({_COMPARED})|(rows|events|records|files) a second)\b"
    r"|\bpeak memory\b|\bfaster than\b"
)


def test_the_page_of_figures_is_what_the_benchmarks_wrote() -> None:
    found = figures.load()
    assert found
    assert found.keys() <= set(benchmarks.NAMES)
    assert figures.PAGE.read_text() == figures.page(found), "run: .venv/bin/python -m benchmarks.figures"


@pytest.mark.parametrize(
    "page", [page for page in GUIDES if page != figures.PAGE], ids=lambda page: str(page.relative_to(ROOT))
)
def test_no_other_page_tells_what_was_measured(page: Path) -> None:
    told = [
        f"line {number}: {match[0]}" for number, line in enumerate(prose(page), 1) if (match := _MEASURED.search(line))
    ]
    assert not told, "let a benchmark write it, and link to docs/figures.md"
