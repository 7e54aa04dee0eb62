"""The page at / and its files, which are part of this package; nothing is loaded from other hosts."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""The content types of the package's files for browsers, by file extension."""

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Revalidated on each load; the response is 304 unless the installed version changed.
    "Cache-Control": "no-cache",
}


@cache
def _files() -> dict[str, tuple[bytes, dict[str, str]]]:
    """The contents and headers of each file, by name."""
    found = {}
    for file in files("charrnn_runtime.serve").joinpath("static").iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            data = file.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[file.name] = data, {**_HEADERS, "Content-Type": kind, "ETag": tag}
    return found


def _answer(request: Request, name: str) -> Response:
    if name not in _files():
        raise HTTPException(404)
    data, headers = _files()[name]
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if headers["ETag"] in known:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers)


async def page(request: Request) -> Response:
    """Serve the page."""
    return _answer(request, "index.html")


async def static(request: Request) -> Response:
    """Serve a file of the page."""
    return _answer(request, request.path_params["name"])


def routes() -> list[Route]:
    """The routes of the page and its files."""
    return [Route("/", page, methods=["GET"]), Route("/static/{name}", static, methods=["GET"])]
