"""Asks OSV (osv.dev), which gathers PyPI's advisories, whether a pinned version is known to be vulnerable.

`python3 noxfile.py lint` runs this on constraints.txt. It fails if it finds an advisory. If the service is
unreachable, it reports within seconds that nothing was checked, and does not fail: lint works offline.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

SERVICE = "https://api.osv.dev/v1/querybatch"
SECONDS = 5
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)

IGNORED: dict[str, str] = {}
"""Advisories that do not affect this project: the reason by id."""


class OutOfReach(Exception):
    """The service did not respond, or its response is unusable."""


def pinned_versions(text: str) -> list[tuple[str, str]]:
    """The packages and versions pinned by a constraints file."""
    return PINNED.findall(text)


def advisories(pins: list[tuple[str, str]], service: str = SERVICE) -> dict[tuple[str, str], list[str]]:
    """The ids of the advisories for each affected version.

    Raises:
        OutOfReach: the service gave no usable response.
    """
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pins]
    body = json.dumps({"queries": queries}).encode()
    request = urllib.request.Request(service, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            results = json.load(answer)["results"]
        found = [[item["id"] for item in result.get("vulns", ())] for result in results]
    except urllib.error.URLError as error:
        raise OutOfReach(str(error.reason)) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutOfReach(f"no answer that can be read: {error or type(error).__name__}") from error
    if len(found) != len(pins):
        raise OutOfReach(f"{len(found)} answers to {len(pins)} questions")
    known = {pin: [id_ for id_ in ids if id_ not in IGNORED] for pin, ids in zip(pins, found, strict=True)}
    return {pin: ids for pin, ids in known.items() if ids}


def main(path: str, service: str = SERVICE) -> int:
    """Check a constraints file; return the exit code."""
    pins = pinned_versions(Path(path).read_text(encoding="utf-8"))
    try:
        found = advisories(pins, service)
    except OutOfReach as error:
        print(f"advisories: NOT CHECKED, since {service} is not in reach ({error})")
        return 0
    for (name, version), ids in found.items():
        print(f"advisories: {name} {version} is vulnerable: {', '.join(ids)} (https://osv.dev/{ids[0]})")
    if not found:
        print(f"advisories: none for the {len(pins)} versions of {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
