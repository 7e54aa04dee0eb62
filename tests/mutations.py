"""Mutates files at random, by a seed: raw bytes, protobuf messages, JSON values.

The outermost layer of a reader detects random changes of bytes. Most of these changes therefore keep a file
well formed on the outside (lengths, hashes, JSON) and change one thing within.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from charrnn_runtime.format import proto, spec

Draw = np.random.RandomState

NUMBERS: Final = (
    *(0, 1, 2, -1, 3, 7, 12, 47, 48, 49, 64, 65, 127, 128, 255, 256),
    *(2**15, 2**16, 2**20, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)),
)
"""Sizes of the small models, and numbers near overflows."""

WORDS: Final = (
    *(b"", b"state", b"token", b"next_state", b"logits", b"batch", b"com.microsoft", b"ai.onnx", b"axis"),
    *(b"If", b"Loop", b"Tanh", b"Identity", b"Gather", b"MatMul", b"Concat", b"Constant", b"External"),
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"..", b"/etc/passwd", b"x" * 5000),
)

FLOATS: Final = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 1e30, 1.0, 101.0)


class NothingToChange(Exception):
    """A file has no place for a change."""


def pick(draw: Draw, choices: Sequence[Any]) -> Any:
    """Choose one item (numpy's own choice converts them to an array)."""
    if not choices:
        raise NothingToChange
    return choices[int(draw.randint(len(choices)))]


# --- bytes -------------------------------------------------------------------------------------------------


def changed_bytes(data: bytes, draw: Draw, ends: int = 3000) -> bytes:
    """Set, flip, delete or insert some bytes; half of the changes are within ``ends`` bytes of either end,
    where structure outweighs weights."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        if not changed:
            break
        size = len(changed)
        if draw.randint(2):
            at = int(draw.randint(size))
        else:
            near = int(draw.randint(min(ends, size)))
            at = near if draw.randint(2) else size - 1 - near
        kind = draw.randint(7)
        if kind == 0:
            changed[at] = draw.randint(256)
        elif kind == 1:
            changed[at] ^= 1 << draw.randint(8)
        elif kind == 2:
            del changed[at : at + draw.randint(1, 9)]
        elif kind == 3:
            changed[at:at] = draw.bytes(draw.randint(1, 9))
        elif kind == 4:
            changed[at] = (changed[at] + pick(draw, (1, 255))) % 256
        elif kind == 5:  # duplicate a part
            start = int(draw.randint(size))
            changed[at:at] = changed[start : start + draw.randint(1, 200)]
        else:
            del changed[at + 1 :]
    return bytes(changed)


def changed_number(value: int, draw: Draw) -> int:
    """Another number: a neighbour, one with a flipped bit, or one near an overflow."""
    kind = draw.randint(4)
    if kind == 0:
        return value + int(pick(draw, (1, -1)))
    if kind == 1:
        return value ^ (1 << int(draw.randint(63)))
    if kind == 2:
        return -value
    return int(pick(draw, NUMBERS))


def changed_floats(raw: bytes, draw: Draw, kind: str = "<f4") -> bytes:
    """Replace some of the numbers in the bytes of a tensor."""
    numbers = np.frombuffer(raw[: len(raw) // 4 * 4], kind).copy()
    if not len(numbers):
        return raw
    if draw.randint(4) == 0:
        numbers[:] = pick(draw, FLOATS)
    else:
        numbers[int(draw.randint(len(numbers)))] = pick(draw, FLOATS)
    return numbers.tobytes() + raw[len(numbers) * numbers.itemsize :]


# --- JSON --------------------------------------------------------------------------------------------------


def json_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as a container and a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from json_places(item)


def changed_json(value: Any, draw: Draw) -> None:
    """Change one place in a JSON value: replace, remove or duplicate it, or swap two."""
    places = list(json_places(value))
    container, key = pick(draw, places)
    kind = draw.randint(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        container.insert(key, container[key])
    elif kind == 2:
        other, other_key = pick(draw, places)
        one, two = container[key], other[other_key]
        if not any(inner is two for inner, _ in json_places([one])) and one is not two:
            container[key], other[other_key] = _plain(two), _plain(one)
    elif kind == 3 and isinstance(container, dict):
        container[pick(draw, (*container, "", "more", "é\ud800"))] = container.pop(key)
    else:
        container[key] = _changed_value(container[key], draw)


def _plain(value: Any) -> Any:
    """Copy a value, so that no container comes to contain itself."""
    return json.loads(json.dumps(value))


def _changed_value(value: Any, draw: Draw) -> Any:
    if isinstance(value, bool):
        return pick(draw, (not value, 1, "true", None))
    if isinstance(value, int) and draw.randint(4):
        return changed_number(value, draw)
    if isinstance(value, float) and draw.randint(4):
        return pick(draw, (-value, value * 1e300, float("nan"), float("inf"), 1e-320, 0, str(value)))
    if isinstance(value, str) and draw.randint(4):
        return pick(draw, (value + "x", value[1:], value.upper(), "", "\0", "\ud800", "é" * 300, "a"))
    return pick(
        draw, (None, True, 0, -1, 1.5, 2**64, 10**400, 1e308, "", "x", [], {}, [[]], {"x": None}, "1")
    )


# --- protobuf ----------------------------------------------------------------------------------------------


@dataclass
class Field:
    """One field of a message: a number, bytes, or the fields of a nested message.

    Attributes:
        number: the field number.
        content: int (a varint), bytes, or a list of fields.
        kind: the message or type of the field in ONNX; None if unknown.
        wire: the wire type.
    """

    number: int
    content: Any
    kind: Any
    wire: int


def read_fields(data: bytes, message: str = "ModelProto") -> list[Field]:
    """The fields of a well-formed message, at all depths supported by proto."""
    kinds, fields, at = proto._KINDS[message], [], 0
    while at < len(data):
        tag, at = proto._read_varint(data, at, len(data))
        number, wire = tag >> 3, tag & 7
        kind = kinds.get(number)
        if wire == 0:
            content: Any
            content, at = proto._read_varint(data, at, len(data))
        else:
            size = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                size, at = proto._read_varint(data, at, len(data))
            content, at = data[at : at + size], at + size
            if isinstance(kind, str):
                content = read_fields(content, kind)
        fields.append(Field(number, content, kind, wire))
    return fields


def written(fields: list[Field], lie: Callable[[int], int] = lambda size: size) -> bytes:
    """Serialize fields; ``lie`` may change the stated lengths."""
    encoded = bytearray()
    for field in fields:
        encoded += varint(field.number << 3 | field.wire)
        content = field.content
        if isinstance(content, int):
            encoded += varint(content)
            continue
        if isinstance(content, list):
            content = written(content, lie)
        if field.wire == 2:
            encoded += varint(lie(len(content)))
        encoded += content
    return bytes(encoded)


def varint(value: int) -> bytes:
    """A varint: seven bits per byte; negative numbers as their 64-bit complement."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def all_fields(fields: list[Field]) -> Iterator[tuple[list[Field], int]]:
    """Every field at every depth, as its list and its index in it."""
    for index, field in enumerate(fields):
        yield fields, index
        if isinstance(field.content, list):
            yield from all_fields(field.content)


def child(field: Field, number: int) -> Field | None:
    """The first field with a number in a message."""
    return next((inner for inner in field.content if inner.number == number), None)


def changed_model(data: bytes, donor: bytes, draw: Draw) -> bytes:
    """A step model file with one to three changes.

    Args:
        data: a valid file.
        donor: another valid file, the source of other parts.
        draw: the random generator that selects the changes.
    """
    if draw.randint(5) == 0:
        return changed_bytes(data, draw)
    fields = read_fields(data)
    for _ in range(draw.randint(1, 4)):
        with contextlib.suppress(NothingToChange):
            pick(draw, _CHANGES)(fields, donor, draw)
    if draw.randint(12) == 0:
        at = int(draw.randint(30))
        lengths = iter(range(10_000_000))
        return written(fields, lambda size: changed_number(size, draw) if next(lengths) == at else size)
    encoded = written(fields)
    if draw.randint(12) == 0:
        return changed_bytes(encoded, draw)
    return encoded


def _of_kind(fields: list[Field], *kinds: Any) -> list[tuple[list[Field], int]]:
    return [(inside, index) for inside, index in all_fields(fields) if inside[index].kind in kinds]


def _change_number(fields: list[Field], _: bytes, draw: Draw) -> None:
    inside, index = pick(
        draw, [(inside, i) for inside, i in all_fields(fields) if isinstance(inside[i].content, int)]
    )
    inside[index].content = changed_number(inside[index].content, draw)


def _change_word(fields: list[Field], _: bytes, draw: Draw) -> None:
    words = _of_kind(fields, proto._STRING)
    inside, index = pick(draw, words)
    field = inside[index]
    kind = draw.randint(3)
    if kind == 0:
        field.content = pick(draw, WORDS)
    elif kind == 1:  # the name of another value or operator
        other, other_index = pick(draw, words)
        field.content = other[other_index].content
    else:
        field.content = changed_bytes(field.content, draw)


def _swap(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Swap two contents of one kind: the numbers of two tensors, two nodes, two dims."""
    first, i = pick(draw, list(all_fields(fields)))
    alike = [
        (inside, j)
        for inside, j in all_fields(fields)
        if (inside[j].kind, inside[j].number, inside[j].wire)
        == (first[i].kind, first[i].number, first[i].wire)
    ]
    second, j = pick(draw, alike)
    first[i].content, second[j].content = second[j].content, first[i].content


def _remove_or_repeat(fields: list[Field], _: bytes, draw: Draw) -> None:
    inside, index = pick(draw, list(all_fields(fields)))
    if draw.randint(2):
        del inside[index]
    else:
        inside.insert(int(draw.randint(len(inside) + 1)), _copy(inside[index]))


def _copy(field: Field) -> Field:
    content = [_copy(inner) for inner in field.content] if isinstance(field.content, list) else field.content
    return Field(field.number, content, field.kind, field.wire)


def _move(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Move a field among its siblings, so that nodes read later values."""
    inside, index = pick(draw, list(all_fields(fields)))
    inside.insert(int(draw.randint(len(inside))), inside.pop(index))


def _splice(fields: list[Field], donor: bytes, draw: Draw) -> None:
    """Replace a part by one of another model, or add that one."""
    inside, index = pick(draw, list(all_fields(fields)))
    field = inside[index]
    given = [
        other[i]
        for other, i in all_fields(read_fields(donor))
        if (other[i].kind, other[i].number) == (field.kind, field.number)
    ]
    if given:
        part = _copy(pick(draw, given))
        if draw.randint(2):
            inside[index] = part
        else:
            inside.insert(index, part)


def _tensors(fields: list[Field]) -> list[Field]:
    return [inside[i] for inside, i in _of_kind(fields, "TensorProto") if isinstance(inside[i].content, list)]


def _change_dims(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Change the shape of a tensor; half of the time its bytes are adjusted."""
    tensors = [tensor for tensor in _tensors(fields) if child(tensor, 1) and child(tensor, 9)]
    tensor = pick(draw, tensors)
    numbers = [field for field in tensor.content if field.number == 1]
    packed = numbers[0]
    dims = _unpacked(packed.content) if isinstance(packed.content, bytes) else [n.content for n in numbers]
    before = int(np.prod([max(1, size) for size in dims], dtype=object))
    if draw.randint(3) == 0:
        draw.shuffle(dims)
    elif dims:
        at = int(draw.randint(len(dims)))
        dims[at] = changed_number(dims[at], draw)
    tensor.content = [field for field in tensor.content if field.number != 1]
    tensor.content.insert(0, Field(1, b"".join(varint(size) for size in dims), packed.kind, 2))
    raw = child(tensor, 9)
    after = int(np.prod([max(1, size) for size in dims], dtype=object))
    if raw is not None and draw.randint(2) and before and after < 100_000:
        item = max(1, len(raw.content) // before)
        raw.content = (raw.content * (after * item // max(1, len(raw.content)) + 1))[: after * item]


def _unpacked(packed: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        number, at = proto._read_varint(packed, at, len(packed))
        numbers.append(number)
    return numbers


def _change_numbers(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Change the numbers of a tensor: weights, or the small constants of the sampler."""
    tensors = [raw for tensor in _tensors(fields) if (raw := child(tensor, 9)) and raw.content]
    if draw.randint(2):
        tensors = [raw for raw in tensors if len(raw.content) < 1000] or tensors
    raw = pick(draw, tensors)
    if draw.randint(2):
        raw.content = changed_floats(raw.content, draw)
    else:
        size = int(pick(draw, (1, 4, 8)))
        at = int(draw.randint(max(1, len(raw.content) // size))) * size
        number = changed_number(int.from_bytes(raw.content[at : at + size], "little", signed=True), draw)
        number &= 256**size - 1
        raw.content = raw.content[:at] + number.to_bytes(size, "little") + raw.content[at + size :]


def _shift_numbers(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Move an amount from one number of a small tensor to another, which preserves the sum."""
    small = [raw for tensor in _tensors(fields) if (raw := child(tensor, 9)) and 8 <= len(raw.content) < 1000]
    raw = pick(draw, small)
    numbers = np.frombuffer(raw.content[: len(raw.content) // 4 * 4], "<f4").copy()
    one, other = draw.randint(len(numbers), size=2)
    share = np.float32(pick(draw, (1.0, 100.0, -100.0, 1e6)))
    with np.errstate(all="ignore"):
        numbers[one] += share
        numbers[other] -= share
    raw.content = numbers.tobytes() + raw.content[len(numbers) * 4 :]


def _change_metadata(fields: list[Field], _: bytes, draw: Draw) -> None:
    entries = [inside[i] for inside, i in _of_kind(fields, "StringStringEntryProto") if child(inside[i], 2)]
    value = child(pick(draw, entries), 2)
    assert value is not None
    try:
        parsed = [json.loads(value.content)]
    except (ValueError, RecursionError):
        value.content = pick(draw, (b"lstm", b"gru", b"rnn", b"int8", b"fp32", b"fp16", b"byte", b"2"))
        return
    changed_json(parsed, draw)
    text = json.dumps(parsed[0] if parsed else None, ensure_ascii=bool(draw.randint(2)))
    value.content = text.encode("utf-8", "surrogatepass")


def _change_sizes(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Change a size consistently in the metadata, the inputs and the outputs."""
    entries = {
        key.content: value
        for inside, i in _of_kind(fields, "StringStringEntryProto")
        if (key := child(inside[i], 1)) and (value := child(inside[i], 2))
    }
    cell = pick(draw, spec.CELLS)
    layers, hidden_size = int(pick(draw, (1, 2, 3, 32))), int(pick(draw, (6, 12, 13, 24, 16_384)))
    layout = [[b.name, b.start, b.size] for b in spec.state_layout(cell, layers, hidden_size)]
    told = {"cell": cell, "layers": layers, "hidden_size": hidden_size, "state_layout": json.dumps(layout)}
    for name, text in told.items():
        if (entry := entries.get(f"{spec.METADATA_PREFIX}{name}".encode())) is not None:
            entry.content = str(text).encode()
    for inside, index in _of_kind(fields, "Dimension"):
        size = child(inside[index], 1)
        if size is not None and size.content in (48, 24, 12):
            size.content = spec.state_size(cell, layers, hidden_size)


def _add_unknown(fields: list[Field], _: bytes, draw: Draw) -> None:
    """Add a field unknown to this reader, such as external data."""
    messages = [fields] + [
        inside[i].content for inside, i in all_fields(fields) if isinstance(inside[i].content, list)
    ]
    message = pick(draw, messages)
    number = int(pick(draw, (*range(1, 26), 100, 2**29 - 1)))
    location = varint(1 << 3 | 2) + varint(8) + b"location" + varint(2 << 3 | 2) + varint(3) + b"w.b"
    content = pick(draw, (0, 1, 2**63, b"", b"text", location, b"\xff" * 9))
    at = int(draw.randint(len(message) + 1))
    message.insert(at, Field(number, content, None, 0 if isinstance(content, int) else 2))


def _change_tag(fields: list[Field], _: bytes, draw: Draw) -> None:
    inside, index = pick(draw, list(all_fields(fields)))
    if draw.randint(2):
        inside[index].number = int(pick(draw, (*range(1, 26), 0, 2**29 - 1)))
    else:
        inside[index].wire = int(draw.randint(8))


_CHANGES: Final = (
    *(_change_number, _change_word, _swap, _remove_or_repeat, _move, _splice, _change_dims),
    *(_change_numbers, _shift_numbers, _change_metadata, _change_sizes, _add_unknown, _change_tag),
)
