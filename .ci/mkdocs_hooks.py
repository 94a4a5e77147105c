"""What `mkdocs build` does beyond its plugins: links to code become code, and Mermaid comes with the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parent.parent
_MERMAID = _ROOT / ".pipeline" / "tools" / "mermaid" / "package" / "dist" / "mermaid.min.js"
_ON_SITE = "mermaid.min.js"
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s#]+)\)")


def on_config(config: MkDocsConfig) -> None:
    """Let pages load the site's own Mermaid, if `make docs` could get it; the theme would fetch it from unpkg.com."""
    if _MERMAID.exists():
        config.extra_javascript.append(_ON_SITE)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add Mermaid to the files of the site."""
    if _MERMAID.exists():
        files.append(File.generated(config, _ON_SITE, abs_src_path=str(_MERMAID)))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Show links that lead out of docs/ as the path of the file: the site holds no code."""
    docs = _ROOT / "docs"
    here = (docs / page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        path = (here / link[2]).resolve()
        if "://" in link[2] or path.is_relative_to(docs):
            return link[0]
        return f"{link[1]} (`{path.relative_to(_ROOT)}`)"

    return _LINK.sub(shown, markdown)
