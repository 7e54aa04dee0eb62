"""Checkpoints: one safetensors file each, with everything that a run needs to go on exactly where it stopped.

Tensors: ``model.*`` as torch names the network's weights, ``optimizer.<weight>.exp_avg``, ``.exp_avg_sq``
and ``.step`` (AdamW's), ``state.h`` and ``state.c`` (what the streams remember), ``random.cpu`` and, where
one ran there, ``random.cuda``. One metadata key, ``charrnn``, holds canonical JSON (sorted keys, no spaces):
settings, vocabulary, corpus, step and losses, and a hash over it and all tensors. Nothing in a file derives
from a clock, so that the same training writes the same bytes (but for a run with a time budget, which notes
the time that it has spent).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from charrnn_runtime.errors import CharRNNError, one_line
from charrnn_runtime.files import write_whole
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.config import NetworkConfig, TrainConfig
from charrnn_trainer.nn.network import CharNetwork

FORMAT_VERSION: Final = 1
CONFIG_FILE: Final = "config.toml"
"""Every run's folder has one."""

_KEY: Final = "charrnn"
_MAX_HEADER: Final = 16 * 1024 * 1024
"""JSON can take some 30 times its length once it is parsed."""

_PIECE: Final = 1024 * 1024
_ITEM_BYTES: Final = {"F32": 4, "BF16": 2, "U8": 1}
_PATTERN: Final = "*-step*.safetensors"

Kind = Literal["scheduled", "best", "last", "interrupted", "timed"]
"""Why a checkpoint was saved: its step was due, it was the best so far, the run ended, or was stopped, or
some time had gone by."""

_KINDS: Final = ("scheduled", "best", "last", "interrupted", "timed")


class CheckpointError(CharRNNError):
    """A checkpoint cannot be found, or a file is none, or was cut or altered."""


@dataclass(frozen=True)
class CorpusInfo:
    """The text that a run trains on.

    Attributes:
        name: what it is called.
        sha256: the hash of its bytes.
        characters: N, its tokens: characters, or at the byte level bytes.
        train_tokens: how many of them are trained on; validation is the rest.
    """

    name: str
    sha256: str
    characters: int
    train_tokens: int


@dataclass(frozen=True)
class Evaluation:
    """The losses at a step, in nats per character.

    Attributes:
        step: how many steps were done.
        train_loss: the mean over the steps since the last report.
        validation_loss: the loss on the validation text.
    """

    step: int
    train_loss: float | None
    validation_loss: float


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of itself, without its tensors.

    Attributes:
        path: the file.
        kind: why it was saved.
        config: all settings, with what "auto" chose in its place.
        vocabulary: which id is which symbol.
        corpus: the text.
        step: how many steps were done.
        batches_per_pass: how many batches a pass over the text has; ``step`` tells the place in it.
        train_loss: the mean loss since the last report, in nats per character.
        validation_loss: the validation loss at this step, where it was measured.
        whole_loss: the same over the whole validation text, where validations on the way read a sample of it,
            and this was the best checkpoint when the run ended; else None.
        window: the sum and the number of the losses since the last report.
        evaluations: all validation losses so far.
        seconds: the time that was spent so far, where the run has a time budget; else None.
        prepared: how much of it went before steps; else None.
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


@dataclass(frozen=True, eq=False)
class Checkpoint(CheckpointHeader):
    """A checkpoint with its tensors.

    Attributes:
        tensors: all tensors by name.
    """

    tensors: dict[str, Tensor] = field(repr=False)

    def with_whole_loss(self, loss: float) -> CheckpointHeader:
        """Its header, with the loss over the whole validation text."""
        values = {item.name: getattr(self, item.name) for item in fields(CheckpointHeader)}
        return CheckpointHeader(**{**values, "whole_loss": loss})

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights, named as its ``state_dict`` names them."""
        return self.part("model.")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


@dataclass(frozen=True)
class CheckpointEntry:
    """One line of a run's list of checkpoints.

    Attributes:
        path: the file.
        step: how many steps were done.
        train_loss: see `CheckpointHeader`.
        validation_loss: see `CheckpointHeader`.
        best: whether it is the best of its run by validation loss (without one, the last).
        last: whether it is the last of its run.
    """

    path: Path
    step: int
    train_loss: float | None
    validation_loss: float | None
    best: bool
    last: bool


def checkpoint_name(network: NetworkConfig, step: int) -> str:
    """A checkpoint's file name, such as ``lstm-2x256-step2000.safetensors``."""
    return f"{network.label}-step{step}.safetensors"


# --- writing -----------------------------------------------------------------------------------------------


def save_checkpoint(header: CheckpointHeader, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint to ``header.path``, whole or not at all.

    Raises:
        CharRNNError: it cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = _header_values(header)
    about["sha256"] = _digest(about, safetensors.torch.save(on_cpu))
    write_whole(header.path, safetensors.torch.save(on_cpu, {_KEY: _canonical(about)}))


def _header_values(header: CheckpointHeader) -> dict[str, Any]:
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


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(about: Mapping[str, Any], content: bytes) -> str:
    """The hash of a header and of the tensors' bytes in a safetensors file."""
    digest = hashlib.sha256(_canonical(about).encode())
    digest.update(memoryview(content)[8 + int.from_bytes(content[:8], "little") :])
    return digest.hexdigest()


def _digest_of_file(about: Mapping[str, Any], file: BinaryIO) -> str | None:
    """The same for a file that is open behind its header; None for a header that has no canonical form."""
    try:
        digest = hashlib.sha256(_canonical(about).encode())
    except (ValueError, RecursionError):  # NaN somewhere
        return None
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


# --- reading -----------------------------------------------------------------------------------------------


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint and check all of it. Nothing in it is ever executed.

    Names, types and shapes of the tensors, the file's length and the hash are compared with what the header
    says before any tensor is read, so that no file takes more memory than its network has a use for.

    Raises:
        CheckpointError: the file cannot be read, is something else, or was cut or altered.
    """
    path = Path(path)
    with _opened(path) as file:
        start, table, about, header = _read_header(path, file)
        _check_table(header, table, os.fstat(file.fileno()).st_size - start)
        stated = about.pop("sha256", None)
        if stated is None or stated != _digest_of_file(about, file):
            raise _altered(path, "its hash does not match its content")
        file.seek(0)
        content = file.read()
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _altered(path, _line(error)) from error
    del content
    # Copies lie where torch likes them, and do not keep the file's bytes alive.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    _check_numbers(header, tensors)
    return Checkpoint(**vars(header), tensors=tensors)


def read_header(path: str | Path) -> CheckpointHeader:
    """Read what a checkpoint says of itself, without its tensors (and so without checking its hash).

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    path = Path(path)
    with _opened(path) as file:
        return _read_header(path, file)[3]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A checkpoint's file, open for reading; whatever the system refuses becomes a `CheckpointError`."""
    try:
        # A FIFO would be waited for, and a device read for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"cannot read the checkpoint {path}: it is not a regular file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise CheckpointError(f"cannot read the checkpoint {str(path)!r}: {_line(error)}") from error


def _read_header(path: Path, file: BinaryIO) -> tuple[int, dict[str, Any], dict[str, Any], CheckpointHeader]:
    """The start of a file: where the tensors' bytes begin, their table, and the metadata, raw and checked."""
    content = file.read(8)
    if content.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CheckpointError(
            f"{path} is no charrnn checkpoint: it is a pickle, as torch.save writes, and pickles are never "
            "loaded here, since they can run any code"
        )
    size = int.from_bytes(content, "little")
    if len(content) < 8 or not 2 <= size <= _MAX_HEADER:
        raise CheckpointError(f"{path} is no charrnn checkpoint: it does not begin as safetensors files do")
    content = file.read(size)
    if len(content) < size:
        raise _altered(path, "it ends within its header")
    try:
        table = json.loads(content, object_pairs_hook=_without_doubles)
        if not isinstance(table, dict):
            raise TypeError("its header is no table")
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no charrnn checkpoint: {_line(error)}") from error
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_KEY), str):
        raise CheckpointError(
            f"{path} is no charrnn checkpoint: it is a safetensors file that something else wrote"
        )
    try:
        about = json.loads(metadata[_KEY], object_pairs_hook=_without_doubles)
        version = about["version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} is a checkpoint of version {_line(repr(version), 40)}, but this charrnn reads "
                f"version {FORMAT_VERSION}; use the charrnn that wrote it, or train again"
            )
        return 8 + size, table, about, _header(path, about)
    except CheckpointError:
        raise
    except KeyError as error:
        raise _altered(path, f"its header lacks {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, CharRNNError) as error:
        raise _altered(path, _line(error)) from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may stand twice: another reader might take the other value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key of its header stands there twice")
    return made


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


def _check_table(header: CheckpointHeader, table: Mapping[str, Any], content_bytes: int) -> None:
    """Check the tensors' names, types, shapes and places against the settings, without the tensors."""
    expected = _expected_tensors(header)
    if "random.cuda" in table:
        expected["random.cuda"] = (("U8",), [16])
    for name in sorted(expected.keys() | table.keys()):
        dtypes, shape = expected.get(name, ((), None))
        entry = table.get(name)
        found = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else None
        if shape is None or found is None or found[0] not in dtypes or found[1] != shape:
            wanted = "absent" if shape is None else f"{' or '.join(dtypes)} {shape}"
            given = "absent" if entry is None else " ".join(map(str, found or ("no tensor",)))
            raise _altered(header.path, f"{name} should be {wanted}, but is {_line(given, 60)}")
    needed = sum(_ITEM_BYTES[entry["dtype"]] * math.prod(entry["shape"]) for entry in table.values())
    if needed != content_bytes:
        raise _altered(
            header.path, f"its tensors need {needed:,} bytes, but behind its header are {content_bytes:,}"
        )


def _expected_tensors(header: CheckpointHeader) -> dict[str, tuple[tuple[str, ...], list[int]]]:
    """The types, as safetensors names them, and the shape of every tensor that a header's settings need."""
    network = header.config.network
    with torch.device("meta"):  # shapes without memory, whatever sizes a header claims
        weights = CharNetwork(network, len(header.vocabulary)).state_dict()
    expected: dict[str, tuple[tuple[str, ...], list[int]]] = {}
    for name, weight in weights.items():
        shape = list(weight.shape)
        expected[f"model.{name}"] = (("F32",), shape)
        for part in ("exp_avg", "exp_avg_sq"):
            expected[f"optimizer.{name}.{part}"] = (("F32",), shape)
        expected[f"optimizer.{name}.step"] = (("F32",), [])
    for part in ("h", "c") if network.cell == "lstm" else ("h",):
        shape = [network.layers, header.config.data.batch_size, network.hidden_size]
        expected[f"state.{part}"] = (("F32", "BF16"), shape)
    expected["random.cpu"] = (("U8",), list(torch.Generator().get_state().shape))
    return expected


def _check_numbers(header: CheckpointHeader, tensors: Mapping[str, Tensor]) -> None:
    """Check that every number is finite, and that the optimizer and the random generator can take theirs."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            _require_tensor(header, name, bool(tensor.isfinite().all()), "finite")
        if name.startswith("optimizer.") and name.endswith((".step", ".exp_avg_sq")):
            _require_tensor(header, name, bool((tensor >= 0).all()), "zero or more")
    try:
        torch.Generator().set_state(tensors["random.cpu"])
    except RuntimeError:
        raise _altered(header.path, "random.cpu is no state of a random generator") from None


def _require_tensor(header: CheckpointHeader, name: str, right: bool, what: str) -> None:
    if not right:
        raise _altered(header.path, f"{name} is not {what}")


def _require(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"its header makes no sense: {what}")


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its header makes no sense: {value!r} is no count")
    return value


def _real(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"its header makes no sense: {value!r} is no loss")
    return float(value)


def _loss(value: object) -> float | None:
    return None if value is None else _real(value)


def _altered(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint {path} was cut or altered: {_line(why)}")


def _line(what: object, most: int = 200) -> str:
    """What may hold anything from a file, as one line of harmless length."""
    return one_line(" ".join(str(what)[: 2 * most].split()), most)


# --- finding -----------------------------------------------------------------------------------------------


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / CONFIG_FILE).is_file() or any(folder.glob(_PATTERN))


def checkpoint_files(folder: Path) -> list[Path]:
    """The files in a folder that are named as checkpoints are, by step."""

    def step(path: Path) -> int:
        found = re.search(r"-step(\d+)\.safetensors$", path.name)
        return int(found[1]) if found else -1

    return sorted((path for path in folder.glob(_PATTERN) if step(path) >= 0), key=step)


def newest_run(folder: str | Path) -> Path:
    """The run that a path means: a run's folder itself, or in a folder of runs the one that saved last.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CheckpointError(f"there is no {folder}; train first (charrnn-train), or give the run's folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give a run's folder, such as ckpt/lstm")
    if is_run(folder):
        return folder
    runs = [entry for entry in folder.iterdir() if entry.is_dir() and is_run(entry)]
    if not runs:
        raise CheckpointError(f"{folder} holds no run; train first (charrnn-train), or give a run's folder")

    def saved(run: Path) -> tuple[bool, float, str]:
        files = checkpoint_files(run)
        times = [file.stat().st_mtime for file in files or [run / CONFIG_FILE]]
        return bool(files), max(times), run.name

    return max(runs, key=saved)


def list_checkpoints(path: str | Path) -> list[CheckpointEntry]:
    """The checkpoints of a run, by step.

    Args:
        path: a checkpoint's file, a run's folder, or a folder of runs, of which the newest is meant.

    Raises:
        CheckpointError: there are none, or one of them is broken.
    """
    path = Path(path)
    files = [path] if path.is_file() else checkpoint_files(newest_run(path))
    if not files:
        raise CheckpointError(f"{newest_run(path)} has no checkpoint yet")
    headers = sorted((read_header(file) for file in files), key=lambda header: header.step)
    last = headers[-1]
    measured = [header for header in headers if header.validation_loss is not None]
    best = min(measured, key=lambda header: header.validation_loss or 0.0, default=last)
    return [
        CheckpointEntry(
            path=header.path,
            step=header.step,
            train_loss=header.train_loss,
            validation_loss=header.validation_loss,
            best=header is best,
            last=header is last,
        )
        for header in headers
    ]


def find_checkpoint(path: str | Path, which: Literal["best", "last"] | int = "best") -> Path:
    """The file of one checkpoint.

    Args:
        path: a checkpoint's file (which is then the answer), a run's folder, or a folder of runs, of which
            the newest is meant.
        which: "best" by validation loss (where none was measured, the last), "last", or a step.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = Path(path)
    entries = list_checkpoints(path)
    for entry in entries:
        if (which == "best" and entry.best) or (which == "last" and entry.last) or which == entry.step:
            return entry.path
    steps = ", ".join(str(entry.step) for entry in entries)
    raise CheckpointError(f"{entries[0].path.parent} has no checkpoint of step {which}; it has {steps}")
