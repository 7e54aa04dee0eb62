r"""What charrnn-gen is given to read: prompts, items that are known, and stop texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn_runtime.cli import command_line, terminal, texts
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN


def prompts(
    prompt: str | None,
    prompt_file: Path | None,
    prompts_file: Path | None,
    streams: int,
    encoding: str | None,
) -> Callable[[CharRNN], Iterator[str | bytes]]:
    """The prompts of all streams, in the form that a model reads."""
    if prompts_file is not None:
        many = texts.read_bytes(prompts_file)
        return lambda model: iter(
            texts.split_lines(_form(model, many, texts.name_of(prompts_file), encoding))
        )
    if prompt_file is not None:
        data = texts.read_bytes(prompt_file)
        return lambda model: iter([_form(model, data, texts.name_of(prompt_file), encoding)] * streams)
    given = texts.given_text(prompt or "")
    as_bytes = texts.given_bytes(given)
    return lambda model: iter([as_bytes if model.vocabulary.level == "byte" else given] * streams)


def known_items(model: CharRNN, data: bytes, name: str, encoding: str | None) -> frozenset[str]:
    """The lines of a file of items, as a model of the same level writes them."""
    lines = texts.split_lines(_form(model, data, name, encoding))
    return frozenset(line if isinstance(line, str) else line.decode(errors="replace") for line in lines)


def _form(model: CharRNN, data: bytes, name: str, encoding: str | None) -> str | bytes:
    """What was read in the form that a model reads: the raw bytes, or a text."""
    text = texts.text_of(data, name, encoding, as_bytes=model.vocabulary.level == "byte")
    return texts.unix_lines(text) if model.info.lines else text


def check_encoding(encoding: str | None, *, files: bool) -> None:
    """Refuse an encoding that there is not, or that nothing is read in.

    Raises:
        SettingError: it is refused.
    """
    if encoding is not None:
        from charrnn_runtime.text_files import check_encoding as check

        check(encoding)
        if not files:
            raise SettingError("--encoding is for --prime-file, --primes-file and --new: give one of them")


def check_greedy(temperature: float, top_k: int | None, top_p: float, min_p: float) -> None:
    """Refuse settings of sampling beside ``--greedy``, with which they would mean nothing.

    Raises:
        SettingError: one was given.
    """
    if top_k is not None:
        raise SettingError("--greedy and --top-k exclude each other: --greedy is --top-k 1")
    others = {
        "--temperature": temperature != spec.DEFAULT_TEMPERATURE,
        "--top-p": top_p != 1.0,
        "--min-p": min_p != 0.0,
    }
    for option, is_given in others.items():
        if is_given:
            raise SettingError(
                f"--greedy and {option} exclude each other: --greedy takes the most likely character, "
                f"whatever {option} is; omit one of them"
            )


def stop_texts(model: CharRNN, given: Sequence[str]) -> list[str]:
    r"""The stop texts of a command line, in which ``\n``, ``\t`` and ``\r`` mean what they mean in Python.

    A model that writes backslashes may write these characters themselves, so there they stay; a message says
    how to write the others.
    """
    stops = [texts.given_text(each) for each in given]
    for index, each in enumerate(stops):
        plain = command_line.without_escapes(each)
        if plain == each:
            continue
        if model.vocabulary.unknown_characters("\\"):
            stops[index] = plain
        else:
            terminal.say(
                f"--stop {each!r} is taken literally, since this model writes backslashes; to stop at the "
                f"control characters give these themselves, in bash as --stop $'{each}'"
            )
    return stops
