"""A hook for mkdocs: pages that lie outside docs/, and links between them that hold on the site too.

README.md is the site's home, models/README.md its page models.md, and so on (`PAGES`). A link is written as
it is right in the repository, where most readers follow it, and is rewritten for the site here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "data/README.md": "data.md",
    "models/README.md": "models.md",
    "runtime/README.md": "runtime.md",
    "trainer/README.md": "trainer.md",
}
"""The pages from outside docs/: their paths in the repository, and on the site."""

IN_REPOSITORY = {page: path for path, page in PAGES.items()}
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")
"""What begins a relative link, and its path: ``[text](path#anchor)``."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the relative links of a page; one that leads to no page is left, and mkdocs warns of it."""
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, page: str) -> str:
    """The Markdown of a page of the site, given as it stands in the repository.

    >>> rewrite_links("[How](docs/format.md#sampling) and [why](SECURITY.md)", "index.md")
    '[How](format.md#sampling) and [why](security.md)'
    >>> rewrite_links("[The runtime](../runtime/README.md)", "platforms.md")
    '[The runtime](runtime.md)'
    """
    here = posixpath.dirname(IN_REPOSITORY.get(page, f"docs/{page}"))

    def rewritten(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, link[2]))
        target = PAGES.get(path, path.removeprefix("docs/"))
        return link[1] + posixpath.relpath(target, posixpath.dirname(page) or ".")

    return LINK.sub(rewritten, markdown)
