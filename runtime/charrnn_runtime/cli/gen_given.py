"""The command line of charrnn-gen as one value: checks that its options agree, and makes a request of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charrnn_runtime.cli import gen_beam, gen_inputs, gen_items, outputs, texts
from charrnn_runtime.cli.gen_texts import TextRequest
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.vocabulary import Unknown


class Given(Record):
    """The arguments and options of charrnn-gen, each described in its help; None for what was not given."""

    model_path: Path
    prompt: str | None
    prompt_file: Path | None
    prompts_file: Path | None
    length: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    greedy: bool
    seed: int | None
    streams: int | None
    lines: int | None
    unique: bool
    new: Path | None
    stop: tuple[str, ...]
    beam: int | None
    unknown: Unknown
    encoding: str | None
    batch: int | None
    output: Path | None
    force: bool
    as_json: bool
    logprobs: int | None
    with_prompt: bool
    raw: bool
    interactive: bool

    @property
    def one_stream(self) -> bool:
        """Whether running text is that of a single stream."""
        return self.streams in (None, 1) and self.prompts_file is None


def check(given: Given) -> None:
    """Check which options are given together.

    Raises:
        SettingError: two are mutually exclusive, or one needs another.
    """
    if given.greedy:
        gen_inputs.check_greedy(given.temperature, given.top_k, given.top_p, given.min_p)
    if sum(each is not None for each in (given.prompt, given.prompt_file, given.prompts_file)) > 1:
        raise SettingError("--prime, --prime-file and --primes-file are mutually exclusive; give one of them")
    gen_inputs.check_encoding(
        given.encoding, files=bool(given.prompt_file or given.prompts_file or given.new)
    )
    items = wants_items(given)
    if given.beam is not None:
        _check_beam(given)
    if given.prompts_file is not None and given.streams not in (None, 1):
        raise SettingError("--primes-file runs one stream per line, so it cannot be combined with --streams")
    if items is False:
        check_batch(given)
    _check_output(given)


def wants_items(given: Given) -> bool | None:
    """Whether the command line requests items; None if the model decides.

    Raises:
        SettingError: the options contradict each other.
    """
    return gen_items.are_wanted(
        given.lines,
        unique=given.unique,
        new=given.new is not None,
        length=given.length,
        greedy=given.greedy,
        running_text={
            "--streams": given.streams is not None,
            "--prime-file": given.prompt_file is not None,
            "--primes-file": given.prompts_file is not None,
            "--stop": bool(given.stop),
            "--logprobs": given.logprobs is not None,
            "--raw": given.raw,
            "--interactive": given.interactive,
            "--beam": given.beam is not None,
        },
    )


def _check_beam(given: Given) -> None:
    """Reject options that do not apply to beam search."""
    gen_beam.check(
        {
            "--temperature": given.temperature != spec.DEFAULT_TEMPERATURE,
            "--top-k": given.top_k is not None,
            "--top-p": given.top_p != 1.0,
            "--min-p": given.min_p != 0.0,
            "--greedy": given.greedy,
            "--seed": given.seed is not None,
            "--streams": given.streams is not None,
            "--primes-file": given.prompts_file is not None,
            "--logprobs": given.logprobs is not None,
            "--interactive": given.interactive,
        },
    )


def check_batch(given: Given) -> None:
    """Reject ``--batch`` for running text of a single stream.

    Raises:
        SettingError: it was given.
    """
    if given.batch is not None and given.one_stream:
        raise SettingError(
            "--batch requires several streams: give --streams, --primes-file or --lines too, or omit it"
        )


def _check_output(given: Given) -> None:
    """Reject options that do not go with the form or the place of the output."""
    if given.interactive and (given.as_json or given.output or given.prompt_file or not given.one_stream):
        raise SettingError(
            "--interactive streams one text to stdout; it cannot be combined with --json, --output, "
            "--streams, --prime-file and --primes-file"
        )
    if given.raw and (given.as_json or given.interactive or not given.one_stream):
        raise SettingError(
            "--raw writes only the bytes of one stream; it cannot be combined with --json, "
            "--interactive, --streams and --primes-file"
        )
    if given.logprobs is not None and not given.as_json:
        raise SettingError("--logprobs requires --json: add --json, or omit --logprobs")
    if given.force and not given.output:
        raise SettingError("--force requires --output")
    outputs.check_not_input(
        "--output", given.output, given.model_path, given.prompt_file, given.prompts_file, given.new
    )


def request_of(given: Given) -> TextRequest:
    """The request of a command line; reads the prompts.

    Raises:
        SettingError: a setting is invalid.
        CharRNNError: a file cannot be read.
    """
    # Slow to import, and neither --help nor usage errors need it.
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.uniforms import check_seed, draw_seed

    streams = 1 if given.streams is None else given.streams
    sampling = Sampling(given.temperature, 1 if given.greedy else given.top_k, given.top_p, given.min_p)
    return TextRequest(
        prompts=gen_inputs.prompts(
            given.prompt, given.prompt_file, given.prompts_file, streams, given.encoding
        ),
        streams=streams if given.prompts_file is None else None,
        length=given.length,
        sampling=sampling,
        stop=given.stop,
        seed=draw_seed() if given.seed is None else check_seed(given.seed),
        unknown=given.unknown,
        batch=given.batch,
        with_prompt=given.with_prompt,
        raw=given.raw,
        as_json=given.as_json,
        logprobs=given.logprobs,
    )


def items_of(
    given: Given, request: TextRequest, model: CharRNN, known: bytes | None
) -> gen_items.ItemsRequest:
    """The request of a command line for items.

    Args:
        given: the command line.
        request: the request.
        model: the model.
        known: the contents of the file of ``--new``, if it was given.
    """
    count = gen_items.default_count(greedy=given.greedy) if given.lines is None else given.lines
    new_name = None if given.new is None else texts.name_of(given.new)
    excluded: frozenset[str] = frozenset()
    if new_name is not None and known is not None:
        excluded = gen_inputs.known_items(model, known, new_name, given.encoding)
    return gen_items.ItemsRequest(
        count=count,
        prompt=next(request.prompts(model)),
        length=given.length,
        unique=given.unique,
        new=excluded,
        new_name=new_name,
        sampling=request.sampling,
        seed=request.seed,
        unknown=request.unknown,
        rows=given.batch,
        with_prompt=given.with_prompt,
        as_json=given.as_json,
    )
