"""The output of charrnn-quality: a table, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charrnn_runtime.quality import ItemQuality, TextQuality


def record_of(found: TextQuality, items: ItemQuality | None, unit: str) -> dict[str, Any]:
    """The measurements of a text as a JSON object."""
    record: dict[str, Any] = {
        "unit": unit,
        "characters": found.characters,
        "words": found.words,
        "known_words": _rounded(found.known_words),
        "windows": found.windows,
        "copied_windows": _rounded(found.copied_windows),
        "distinct": [_rounded(share) for share in found.distinct],
    }
    if items is not None:
        record |= {
            "items": items.items,
            "repeated_items": _rounded(items.repeated),
            "listed_items": _rounded(items.listed),
        }
    return record


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)


def table(rows: list[tuple[str, TextQuality, ItemQuality | None]], window: int, unit: str) -> list[str]:
    """The lines of a table of measurements."""
    header = ["text", f"{unit}s", "words", "known", f"copied ({window})"]
    header += [f"distinct-{n}" for n in range(1, 1 + len(rows[0][1].distinct))]
    of_items = any(items is not None for _, _, items in rows)
    header += ["items", "repeated", "listed"] if of_items else []
    cells = [header]
    for name, found, items in rows:
        shares = [_percent(found.known_words), _percent(found.copied_windows)]
        distinct = ["-" if share is None else f"{share:.3f}" for share in found.distinct]
        row = [name, f"{found.characters:,}", f"{found.words:,}", *shares, *distinct]
        if items is not None:
            row += [f"{items.items:,}", _percent(items.repeated), _percent(items.listed)]
        elif of_items:
            row += ["-"] * 3
        cells.append(row)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
