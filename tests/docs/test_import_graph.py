"""The drawn graphs of imports are those of the code, and there is no circle in them."""

import pytest
from documents import DOCS, blocks
from import_graph import PACKAGE, circles, edges, mermaid


@pytest.mark.parametrize("folder", ["pipeline_assets", "pipeline_assets/ingest", "pipeline_assets/ingest/cdc"])
def test_the_drawn_graph_of_imports_is_that_of_the_code(folder: str) -> None:
    page = DOCS / "architecture.md"
    line = page.read_text().splitlines().index(f"<!-- imports: folders of {folder} -->") + 1
    drawn = next(block for block in blocks(page) if block.line > line)
    found = edges(PACKAGE.parent / folder)
    assert found
    assert drawn.text == mermaid(found), f"{drawn} should be:\n{mermaid(found)}"
    assert circles(found) == set()
