"""POST /trace: what a model computes while it reads a text."""

from __future__ import annotations

from starlette.routing import Route


def routes() -> list[Route]:
    """The endpoint."""
    return []
