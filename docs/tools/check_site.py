"""Check a built site: every link has a target, and no page loads anything from another host.

python docs/tools/check_site.py site

The built HTML is checked, including the links of the theme and of generated pages. Links to other hosts are
not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"audio", "embed", "iframe", "img", "link", "object", "script", "source", "track", "video"}
"""The elements whose addresses a browser loads automatically."""


class Page(HTMLParser):
    """A page's links, loaded addresses and anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the addresses and anchors of an element."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        for address in (values[name] for name in ("href", "src", "data") if name in values):
            (self.loaded if tag in LOADS else self.links).append(address)


def check_site(site: Path) -> list[str]:
    """The faults of a site, one line each."""
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
    """Print the faults, and fail if there are any."""
    site = Path(sys.argv[1]).resolve()
    faults = check_site(site)
    for fault in faults:
        print(fault, file=sys.stderr)
    pages = len(list(site.rglob("*.html")))
    if faults or not pages:
        sys.exit(f"{len(faults)} faults in {pages} pages of {site}")
    print(f"all links of {pages} pages have targets, and nothing is loaded from another host")


if __name__ == "__main__":
    main()
