"""The documentation quotes no figure but those that a benchmark has written."""

import re
from pathlib import Path

import pytest
from documents import GUIDES, ROOT, prose

from benchmarks import figures, report

# How measured things are told. Limits and defaults, which are declared, are told otherwise.
_COMPARED = "as|fewer|more|less|faster|slower|the"
_MEASURED = re.compile(
    rf"\d[\d,.]* ?(µs|ms|s CPU|s wall|CPU seconds|times ({_COMPARED})|(rows|events|records|files) a second)\b"
    r"|\bpeak memory\b|\bfaster than\b"
)


def test_the_page_of_figures_is_what_the_benchmarks_wrote() -> None:
    found = figures.load()
    assert found
    assert found.keys() <= set(figures.NAMES)
    assert figures.PAGE.read_text() == figures.page(found), "run: .venv/bin/python -m benchmarks.figures"


@pytest.mark.parametrize(
    "page", [page for page in GUIDES if page != figures.PAGE], ids=lambda page: str(page.relative_to(ROOT))
)
def test_no_other_page_tells_what_was_measured(page: Path) -> None:
    told = [
        f"line {number}: {match[0]}" for number, line in enumerate(prose(page), 1) if (match := _MEASURED.search(line))
    ]
    assert not told, "let a benchmark write it, and link to docs/figures.md"


def test_a_benchmark_leaves_its_last_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(figures, "PAGE", tmp_path / "figures.md")
    for name, seconds in (("merge", 1.0), ("load", 2.5), ("merge", 1234.5)):
        target = report.Target("CPU seconds", seconds, 2)
        result = report.Result(
            name, f"what {name} costs", ["", "CPU s"], [["ours", seconds]], [target], raw={"runs": 7}
        )
        report.write(result, seconds)
    assert figures.load().keys() == {"load", "merge"}
    assert "runs" not in figures.FIGURES.read_text()
    page = figures.PAGE.read_text()
    assert page == figures.page(figures.load())
    assert page.index("## load\n\nWhat load costs.") < page.index("## merge")
    assert "Not measured yet: `writer`, `sensor`" in page
    assert "| ours | 1,234 |" in page
    assert "| ours | 1.00 |" not in page
    assert "- **missed**: CPU seconds: 2.50, at most 2" in page
