"""The page's files: they need nothing of another host, and browsers are told so."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="the server's extra is not installed")
pytest.importorskip("uvicorn", reason="the server's extra is not installed")

from charrnn_runtime import CharRNN
from charrnn_runtime.serve import page
from charrnn_runtime.serve.settings import ServeSettings
from page_server import serving

STATIC = Path(page.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir())

Fetch = Callable[..., http.client.HTTPResponse]


@pytest.fixture(scope="module")
def fetch(load: Callable[[str], CharRNN]) -> Iterator[Fetch]:
    """Asks a server that wants a key, without one."""
    with serving({"m": load("lstm-2x12-fp32")}, ServeSettings(api_keys=("key",))) as address:

        def fetch(path: str, **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
            connection.request("GET", path, headers={name.replace("_", "-"): it for name, it in headers.items()})
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            connection.close()
            return response

        yield fetch


@pytest.mark.parametrize("path", ["/", *(f"/static/{name}" for name in FILES)])
def test_a_file_comes_with_a_policy_that_lets_nothing_in_from_outside(fetch: Fetch, path: str) -> None:
    response = fetch(path)
    assert response.status == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    again = fetch(path, If_None_Match=response.headers["ETag"])
    assert (again.status, again.body) == (304, b"")  # type: ignore[attr-defined]
    assert fetch(path, If_None_Match='"another"').status == 200


@pytest.mark.parametrize("name", ["nothing.js", "page.py", "../page.py", "..%2Fpage.py", "%00", "page.js/"])
def test_nothing_else_is_given(fetch: Fetch, name: str) -> None:
    assert fetch(f"/static/{name}").status == 404


def test_what_the_page_names_is_there_and_of_this_server() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\"' )]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, path.name
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="(?!#)([^"]+)"', html)
    imported = [
        f"static/{name}"
        for path in STATIC.glob("*.js")
        for name in re.findall(r'^import .* from "\./([^"]+)";', path.read_text(encoding="utf-8"), re.M)
    ]
    assert named
    assert imported
    assert {Path(name).name for name in named + imported} | {"index.html"} == set(FILES)
    assert not re.search(r"<(style|script)>|\bstyle=|\bon\w+=", html)  # the policy allows none of these
