"""The page at / and what it loads."""

from __future__ import annotations

from starlette.routing import Route


def routes() -> list[Route]:
    """The page and its files."""
    return []
