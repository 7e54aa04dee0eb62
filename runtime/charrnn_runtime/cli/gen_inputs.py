r"""The inputs of charrnn-gen: prompts, known items and stop texts."""

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
    """The prompts of all streams, as text or bytes depending on the model's level."""
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
    """The lines of a file of items, in the form in which a model of this level writes them."""
    lines = texts.split_lines(_form(model, data, name, encoding))
    return frozenset(line if isinstance(line, str) else line.decode(errors="replace") for line in lines)


def _form(model: CharRNN, data: bytes, name: str, encoding: str | None) -> str | bytes:
    """The contents of a file as the model reads them: raw bytes, or text."""
    text = texts.text_of(data, name, encoding, as_bytes=model.vocabulary.level == "byte")
    return texts.unix_lines(text) if model.info.lines else text


def check_encoding(encoding: str | None, *, files: bool) -> None:
    """Reject an unknown encoding, or one that no option uses.

    Raises:
        SettingError: the encoding is invalid.
    """
    if encoding is not None:
        from charrnn_runtime.text_files import check_encoding as check

        check(encoding)
        if not files:
            raise SettingError("--encoding requires --prime-file, --primes-file or --new: add one of them")


def check_greedy(temperature: float, top_k: int | None, top_p: float, min_p: float) -> None:
    """Reject sampling settings that have no effect with ``--greedy``.

    Raises:
        SettingError: one was given.
    """
    if top_k is not None:
        raise SettingError("--greedy and --top-k are mutually exclusive: --greedy means --top-k 1")
    others = {
        "--temperature": temperature != spec.DEFAULT_TEMPERATURE,
        "--top-p": top_p != 1.0,
        "--min-p": min_p != 0.0,
    }
    for option, is_given in others.items():
        if is_given:
            raise SettingError(
                f"--greedy and {option} are mutually exclusive: --greedy always takes the most likely "
                "character; omit one of them"
            )


def stop_texts(model: CharRNN, given: Sequence[str]) -> list[str]:
    r"""The stop texts of a command line, with ``\n``, ``\t`` and ``\r`` replaced as in Python.

    They are left alone if the model's vocabulary has a backslash, since the model may then write these
    characters literally; a message says how to give control characters instead.
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
                f"--stop {each!r} is taken literally, since this model's vocabulary has a backslash; to stop "
                f"at control characters, give them directly, in bash as --stop $'{each}'"
            )
    return stops
