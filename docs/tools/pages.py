"""A hook for mkdocs: add pages from outside docs/, and rewrite links for the site.

README.md is the site's home, models/README.md its page models.md, and so on (`PAGES`). Links are written for
the repository, where most readers follow them, and rewritten here for the site.
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
"""The pages from outside docs/: paths in the repository and on the site."""

IN_REPOSITORY = {page: path for path, page in PAGES.items()}
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")
"""The start of a relative link, and its path: ``[text](path#anchor)``."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the relative links of a page; links without a target are kept, and mkdocs warns about them."""
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, page: str) -> str:
    """Rewrite the Markdown of a page in the repository for the site.

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
