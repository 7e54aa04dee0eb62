"""charrnn-gen --beam: write the most likely text found by beam search instead of a sampled one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from charrnn_runtime.cli import terminal
from charrnn_runtime.cli.gen_inputs import stop_texts
from charrnn_runtime.cli.gen_texts import TextRequest, as_given, say_skipped
from charrnn_runtime.errors import SettingError

if TYPE_CHECKING:
    from charrnn_runtime.beam import Continuation
    from charrnn_runtime.model import CharRNN


def check(others: Mapping[str, bool]) -> None:
    """Reject options that do not apply to beam search.

    Args:
        others: these options, and whether they were given.

    Raises:
        SettingError: one was given.
    """
    surplus = [option for option, is_given in others.items() if is_given]
    if surplus:
        raise SettingError(
            "--beam searches for the most likely text instead of sampling, so it cannot be combined with "
            f"{surplus[0]}; give only one of them"
        )


def write(model: CharRNN, request: TextRequest, beams: int, give: Callable[[bytes], None]) -> int:
    """Write the most likely text, or all texts found as JSON. Returns the number of characters.

    For a model trained on lines, this is the rest of a line, unless a stop text was given.
    """
    prompt = next(request.prompts(model))
    stop = stop_texts(model, request.stop)
    read = prompt
    if model.info.lines and not stop:
        stop = ["\n"]
        read = b"\n" + prompt if isinstance(prompt, bytes) else "\n" + prompt
    say_skipped(model, prompt, request.unknown)
    found = model.beam(read, request.length, beams=beams, stop=stop, unknown=request.unknown)
    head = model.vocabulary.decode_bytes(model.vocabulary.encode(prompt, request.unknown))
    best = found[0]
    unit = "byte" if model.vocabulary.level == "byte" else "character"
    terminal.say(
        f"most likely of {len(found):,} texts: {best.nats:.4f} nats, {best.bits:.4f} bits, "
        f"{best.bits_per_character:.4f} bits per {unit}"
    )
    if request.as_json:
        for rank, each in enumerate(found):
            record = _record(model, request, stop, head, each)
            line = json.dumps({"rank": rank, **record}, ensure_ascii=False)
            give(line.encode(errors="backslashreplace") + b"\n")
    else:
        shown = (head if request.with_prompt else b"") + best.data
        give(shown if request.raw else shown.decode(errors="replace").encode())
        if not request.raw and not shown.endswith(b"\n"):
            give(b"\n")
    return best.characters


def _record(
    model: CharRNN, request: TextRequest, stop: list[str], head: bytes, found: Continuation
) -> dict[str, object]:
    return {
        "prompt": head.decode(errors="replace"),
        "text": ((head if request.with_prompt else b"") + found.data).decode(errors="replace"),
        "nats": round(found.nats, 6),
        "bits": round(found.bits, 6),
        "characters": found.characters,
        "settings": {"length": request.length, "stop": as_given(stop)},
        "finish_reason": found.finish_reason,
        "device": model.device,
        "model": {"path": model.info.path, "sha256": model.info.sha256},
    }
