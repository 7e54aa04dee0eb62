"""The files of the page: they load nothing from other hosts, as enforced by their policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the server's extra is not installed")
pytest.importorskip("uvicorn", reason="the server's extra is not installed")

from charrnn_runtime import CharRNN
from charrnn_runtime.serve import page
from charrnn_runtime.serve.settings import ServeSettings
from served import Served

STATIC = Path(page.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir())


@pytest.fixture(scope="module")
def served(load: Callable[[str], CharRNN]) -> Iterator[Served]:
    """A server that requires a key, which these tests do not have."""
    with Served({"m": load("lstm-2x12-fp32")}, ServeSettings(api_keys=("key",))) as served:
        yield served


@pytest.mark.parametrize("path", ["/", *(f"/static/{name}" for name in FILES)])
def test_files_are_served_with_a_policy_that_allows_no_external_resources(served: Served, path: str) -> None:
    response = served.ask(path)
    assert response.status == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)
    assert response.headers["x-content-type-options"] == "nosniff"
    again = served.ask(path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert served.ask(path, headers={"If-None-Match": '"another"'}).status == 200


@pytest.mark.parametrize("name", ["nothing.js", "page.py", "../page.py", "..%2Fpage.py", "%00", "page.js/"])
def test_no_other_file_is_served(served: Served, name: str) -> None:
    assert served.ask(f"/static/{name}").status == 404


def test_every_resource_of_the_page_exists_on_this_server() -> None:
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
