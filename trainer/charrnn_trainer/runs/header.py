"""A checkpoint's metadata, as values and as JSON, which is fully validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from charrnn_runtime.errors import CharRNNError, one_line
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.train_config import TrainConfig

FORMAT_VERSION: Final = 1

Kind = Literal["scheduled", "best", "last", "interrupted", "timed"]
"""The reason for saving a checkpoint: on schedule, as the best so far, at the end of the run, when the run
was stopped, or after some time without a checkpoint."""

_KINDS: Final = ("scheduled", "best", "last", "interrupted", "timed")


class CheckpointError(CharRNNError):
    """A checkpoint was not found, or a file is not a checkpoint, or is truncated or damaged."""


@dataclass(frozen=True)
class CorpusInfo:
    """The text of a run.

    Attributes:
        name: its name.
        sha256: the hash of its bytes.
        characters: N, the number of its tokens: characters, or bytes at the byte level.
        train_tokens: the number of tokens for training; the rest is for validation.
    """

    name: str
    sha256: str
    characters: int
    train_tokens: int


@dataclass(frozen=True)
class Evaluation:
    """The losses at a step, in nats per character.

    Attributes:
        step: the number of steps done.
        train_loss: the mean over the steps since the last report.
        validation_loss: the loss on the validation text.
    """

    step: int
    train_loss: float | None
    validation_loss: float


@dataclass(frozen=True)
class CheckpointHeader:
    """A checkpoint's metadata, without its tensors.

    Attributes:
        path: the file.
        kind: the reason for saving it.
        config: all settings, with "auto" resolved.
        vocabulary: the symbols by id.
        corpus: the text.
        step: the number of steps done.
        batches_per_pass: the number of batches in a pass over the text; with ``step``, the position in it.
        train_loss: the mean loss since the last report, in nats per character.
        validation_loss: the validation loss at this step, if measured.
        whole_loss: the loss on the whole validation text, if validations used a sample of it and this was the
            best checkpoint at the end of the run; else None.
        window: the sum and the number of the losses since the last report.
        evaluations: all validation losses so far.
        seconds: the time spent so far, if the run has a time budget; else None.
        prepared: the part of it before the first step; else None.
        trainer_version: the version of charrnn-trainer that wrote it.
    """

    path: Path
    kind: Kind
    config: TrainConfig
    vocabulary: Vocabulary
    corpus: CorpusInfo
    step: int
    batches_per_pass: int
    train_loss: float | None
    validation_loss: float | None
    whole_loss: float | None
    window: tuple[float, int]
    evaluations: tuple[Evaluation, ...]
    seconds: float | None
    prepared: float | None
    trainer_version: str


# --- to and from JSON --------------------------------------------------------------------------------------


def header_to_json(header: CheckpointHeader) -> dict[str, Any]:
    """A header as JSON, without the hash."""
    return {
        "batches_per_pass": header.batches_per_pass,
        "config": header.config.to_dict(),
        "corpus": vars(header.corpus),
        "evaluations": [[item.step, item.train_loss, item.validation_loss] for item in header.evaluations],
        "kind": header.kind,
        "prepared": header.prepared,
        "seconds": header.seconds,
        "step": header.step,
        "train_loss": header.train_loss,
        "trainer_version": header.trainer_version,
        "validation_loss": header.validation_loss,
        "version": FORMAT_VERSION,
        "vocabulary": {"level": header.vocabulary.level, "symbols": list(header.vocabulary.symbols)},
        "whole_loss": header.whole_loss,
        "window": list(header.window),
    }


def header_from_json(path: Path, about: Mapping[str, Any]) -> CheckpointHeader:
    """A header from the metadata of the file ``path``.

    Raises:
        CheckpointError: it is incomplete or invalid.
    """
    try:
        version = about["version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} is a checkpoint of version {harmless(repr(version), 40)}, but this charrnn reads "
                f"version {FORMAT_VERSION}; use the charrnn version that wrote it, or train again"
            )
        return _header(path, about)
    except CheckpointError:
        raise
    except KeyError as error:
        raise altered(path, f"its header lacks {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, CharRNNError) as error:
        raise altered(path, error) from error


def _header(path: Path, about: Mapping[str, Any]) -> CheckpointHeader:
    corpus = CorpusInfo(**about["corpus"])
    kind = about["kind"]
    _require(kind in _KINDS, f"kind {kind!r}")
    for name in ("name", "sha256"):
        _require(isinstance(getattr(corpus, name), str), f"corpus {name}")
    _require(0 < _count(corpus.train_tokens) <= _count(corpus.characters), "corpus sizes")
    window_sum, window_count = about["window"]
    evaluations = tuple(
        Evaluation(_count(step), _loss(train), _real(validation))
        for step, train, validation in about["evaluations"]
    )
    config = TrainConfig.from_dict(about["config"])
    _require(config.network.embedding_size is not None, "embedding_size")
    vocabulary = Vocabulary(about["vocabulary"]["symbols"], about["vocabulary"]["level"])
    _require(vocabulary.level == config.data.level, "level")
    version = about["trainer_version"]
    _require(isinstance(version, str), "trainer_version")
    return CheckpointHeader(
        path=path,
        kind=kind,
        config=config,
        vocabulary=vocabulary,
        corpus=corpus,
        step=_count(about["step"]),
        batches_per_pass=_count(about["batches_per_pass"]),
        train_loss=_loss(about["train_loss"]),
        validation_loss=_loss(about["validation_loss"]),
        whole_loss=_loss(about["whole_loss"]),
        window=(_real(window_sum), _count(window_count)),
        evaluations=evaluations,
        seconds=_loss(about.get("seconds")),
        prepared=_loss(about.get("prepared")),
        trainer_version=version,
    )


def _require(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"its header is invalid: {what}")


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its header is invalid: {value!r} is not a count")
    return value


def _real(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"its header is invalid: {value!r} is not a loss")
    return float(value)


def _loss(value: object) -> float | None:
    return None if value is None else _real(value)


# --- errors for broken files -------------------------------------------------------------------------------


def altered(path: Path, why: object) -> CheckpointError:
    """The error for a checkpoint that is truncated or damaged."""
    return CheckpointError(f"the checkpoint {path} is truncated or damaged: {harmless(why)}")


def harmless(what: object, most: int = 200) -> str:
    """Untrusted content of a file, as one line of limited length."""
    return one_line(" ".join(str(what)[: 2 * most].split()), most)
