"""Creates invalid checkpoints: takes a valid one apart, changes it and reassembles it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from typing import Any, Final

from mutations import (
    NUMBERS,
    Draw,
    NothingToChange,
    changed_bytes,
    changed_floats,
    changed_json,
    changed_number,
    pick,
)

Tensors = dict[str, tuple[str, list[int], bytes]]
"""The dtype (in the notation of safetensors), shape and bytes of each tensor."""

DTYPES: Final = ("F32", "F16", "BF16", "F64", "U8", "I8", "I32", "I64", "BOOL", "F8_E4M3", "F32 ", "", "C64")


def parts(content: bytes) -> tuple[dict[str, Any], Tensors]:
    """The metadata of a checkpoint, without its hash, and its tensors."""
    size = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:size])
    about = json.loads(table.pop("__metadata__")["charrnn"])
    del about["sha256"]
    tensors: Tensors = {}
    for name, entry in table.items():
        start, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], content[size + start : size + end])
    return about, tensors


def sealed(about: dict[str, Any], data: bytes) -> dict[str, Any]:
    """``about`` with the hash that matches it and the bytes of the tensors."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode() + data)
    return {**about, "sha256": digest.hexdigest()}


def whole(about: dict[str, Any], tensors: Tensors, *, seal: bool = True) -> bytes:
    """A file assembled from its parts."""
    table, data = table_of(tensors)
    return with_table({**table, "__metadata__": metadata(sealed(about, data) if seal else about)}, data)


def table_of(tensors: Tensors) -> tuple[dict[str, Any], bytes]:
    """The tensor table and the bytes of the tensors."""
    table, data = {}, bytearray()
    for name, (dtype, shape, raw) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return table, bytes(data)


def metadata(about: Any) -> dict[str, str]:
    """The metadata of a checkpoint with these contents."""
    return {"charrnn": json.dumps(about)}


def with_table(table: Any, data: bytes, size: int | None = None) -> bytes:
    """A safetensors file with an arbitrary table, whose stated length may be false."""
    header = (table if isinstance(table, str) else json.dumps(table)).encode("utf-8", "surrogatepass")
    header += b" " * (-len(header) % 8)
    return (len(header) if size is None else size).to_bytes(8, "little") + header + data


def changed_checkpoint(content: bytes, donor: bytes, draw: Draw) -> bytes:
    """A checkpoint with one to three changes; in most of them the hash is corrected.

    Args:
        content: a valid file.
        donor: another valid file, the source of other tensors.
        draw: the random generator that selects the changes.
    """
    kind = draw.randint(10)
    if kind == 0:
        return changed_bytes(content, draw)
    about, tensors = parts(content)
    if kind < 4:
        about = copy.deepcopy(about)
        for _ in range(draw.randint(1, 3)):
            with contextlib.suppress(NothingToChange):
                changed_json(about, draw)
    elif kind < 8:
        for _ in range(draw.randint(1, 3)):
            with contextlib.suppress(NothingToChange):
                _change_tensors(tensors, parts(donor)[1], draw)
    if kind < 8:
        return whole(about, tensors, seal=draw.randint(6) > 0)
    table, data = table_of(tensors)
    table["__metadata__"] = metadata(sealed(about, data))
    if kind == 8:
        changed_json(table, draw)
        return with_table(table, data)
    size = pick(
        draw, (None, changed_number(len(json.dumps(table)), draw) % 2**64, *(n % 2**64 for n in NUMBERS))
    )
    text = json.dumps(table).encode()
    return with_table(changed_bytes(text, draw, 300).decode("latin-1"), data, size)


def _change_tensors(tensors: Tensors, donor: Tensors, draw: Draw) -> None:
    name = pick(draw, list(tensors))
    dtype, shape, raw = tensors[name]
    kind = draw.randint(9)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[pick(draw, ("more", name + "x", "random.more", "model.", "state.c", "\ud800"))] = tensors[
            name
        ]
    elif kind == 2:  # swap two tensors
        other = pick(draw, list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif kind == 3 and donor:
        tensors[name] = donor[pick(draw, (name if name in donor else next(iter(donor)), *donor))]
    elif kind == 4:
        tensors[name] = (pick(draw, DTYPES), shape, raw)
    elif kind == 5:
        sizes = [*shape]
        if sizes and draw.randint(3):
            at = int(draw.randint(len(sizes)))
            sizes[at] = changed_number(sizes[at], draw)
        else:
            sizes = pick(draw, ([], [1, *sizes], sizes[::-1], [2**62, 2**62], [2**40, 2**20], [0]))
        tensors[name] = (dtype, sizes, raw)
    elif kind == 6:
        tensors[name] = (dtype, shape, changed_bytes(raw, draw) if raw else b"\0")
    else:
        tensors[name] = (dtype, shape, changed_floats(raw, draw))
