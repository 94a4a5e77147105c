"""Links lead somewhere, also those to a heading; pages and folders are all reachable."""

from pathlib import Path

import pytest
from documents import DOCS, PAGES, ROOT, anchors, links, table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for line, target in links(page):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(f"line {line}: there is no {path}")
        elif anchor and anchor not in anchors(file):
            broken.append(
                f"line {line}: {file.name} has no heading #{anchor}; it has {', '.join(sorted(anchors(file)))}"
            )
    assert not broken


def reachable(page: Path) -> set[Path]:
    found, todo = {page}, [page]
    while todo:
        here = todo.pop()
        near = {(here.parent / target.partition("#")[0]).resolve() for _, target in links(here) if "://" not in target}
        todo += (new := {path for path in near if path.suffix == ".md" and path.exists()} - found)
        found |= new
    return found


def test_each_page_is_reached_from_the_readme_and_from_the_index() -> None:
    pages = set(DOCS.rglob("*.md"))
    assert not pages - {DOCS / "README.md"} - reachable(ROOT / "README.md")
    assert not pages - reachable(DOCS / "README.md")


def test_the_readme_is_one_screen_and_maps_each_folder() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 140
    mapped = {cell.partition("`")[2].partition("`")[0].rstrip("/") for cell, _ in table(readme, "Where things are")}
    package = ROOT / "pipeline_assets"
    there = {
        str(folder.relative_to(ROOT))
        for inside in (package, package / "ingest")
        for folder in inside.iterdir()
        # A folder that moved may leave bytecode behind.
        if any(path.is_file() and "__pycache__" not in path.parts for path in folder.rglob("*"))
    }
    assert there - mapped == set(), "folders that the map in README.md does not show"
    assert {name for name in mapped if not (ROOT / name).is_dir()} == set(), "folders of the map that do not exist"
