"""Checks a built site: every link leads somewhere, and no page loads anything from another host.

python docs/tools/check_site.py site

It reads the HTML that was built, so that it also sees what themes and generated pages link to. Addresses on
other hosts are not opened.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"audio", "embed", "iframe", "img", "link", "object", "script", "source", "track", "video"}
"""The elements whose address a browser loads without being asked."""


class Page(HTMLParser):
    """What a page links to, what it loads, and which anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and anchors of an element."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        for address in (values[name] for name in ("href", "src", "data") if name in values):
            (self.loaded if tag in LOADS else self.links).append(address)


def check_site(site: Path) -> list[str]:
    """What is wrong with a site, a line for each fault."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for address in page.loaded:
            if urlsplit(address).netloc:
                faults.append(f"{name} loads {address}")
        for address in page.links + page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            inside = unquote(parts.path)
            target = site / inside.lstrip("/") if inside.startswith("/") else path.parent / inside
            target = path if not inside else Path(target).resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                faults.append(f"{name} links to {address}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{name} links to {address}, which has no such anchor")
    return faults


def main() -> None:
    """Print what is wrong, and fail where anything is."""
    site = Path(sys.argv[1]).resolve()
    faults = check_site(site)
    for fault in faults:
        print(fault, file=sys.stderr)
    pages = len(list(site.rglob("*.html")))
    if faults or not pages:
        sys.exit(f"{len(faults)} faults in {pages} pages of {site}")
    print(f"all links of {pages} pages lead somewhere, and nothing is loaded from another host")


if __name__ == "__main__":
    main()
