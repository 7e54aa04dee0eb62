"""Checkpoints: one safetensors file each, with everything needed to resume a run exactly where it stopped.

Tensors: ``model.*`` (the network's weights under torch's names), ``optimizer.<weight>.exp_avg``,
``.exp_avg_sq`` and ``.step`` (AdamW's state), ``state.h`` and ``state.c`` (the hidden state of the streams),
``random.cpu`` and, on a GPU, ``random.cuda``. The header (`runs.header`) contains settings, vocabulary,
corpus, step and losses, and a hash over itself and all tensors. Nothing depends on a clock, so that the same
run writes the same bytes (except for runs with a time budget, which record the time spent).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from charrnn_runtime.files import write_whole
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.data import safetensors_header
from charrnn_trainer.data.safetensors_header import AlteredFileError, ForeignFileError, SafetensorsHeader
from charrnn_trainer.nn.cells import CELLS
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.nn.optimizer import MOMENTS
from charrnn_trainer.runs.header import (
    CheckpointError,
    CheckpointHeader,
    altered,
    harmless,
    header_from_json,
    header_to_json,
)

_PIECE: Final = 1024 * 1024
_ITEM_BYTES: Final = {"F32": 4, "BF16": 2, "U8": 1}


@dataclass(frozen=True, eq=False)
class Checkpoint(CheckpointHeader):
    """A checkpoint with its tensors.

    Attributes:
        tensors: all tensors by name.
    """

    tensors: dict[str, Tensor] = field(repr=False)

    def with_whole_loss(self, loss: float) -> CheckpointHeader:
        """Its header, with the loss on the whole validation text."""
        values = {item.name: getattr(self, item.name) for item in fields(CheckpointHeader)}
        return CheckpointHeader(**{**values, "whole_loss": loss})

    def network(self) -> CharNetwork:
        """The checkpoint's network, on the CPU."""
        with torch.random.fork_rng(devices=[]):  # the initial weights are replaced immediately
            network = CharNetwork(self.config.network, len(self.vocabulary))
        network.load_weights(self.weights, self.path)
        return network

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights, named as in its ``state_dict``."""
        return self.part("model.")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, by name without the prefix."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def checkpoint_name(network: NetworkConfig, step: int) -> str:
    """A checkpoint's file name, such as ``lstm-2x256-step2000.safetensors``."""
    return f"{network.label}-step{step}.safetensors"


# --- writing -----------------------------------------------------------------------------------------------


def save_checkpoint(header: CheckpointHeader, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint to ``header.path`` atomically.

    Raises:
        CharRNNError: it cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = header_to_json(header)
    about["sha256"] = _digest(about, safetensors.torch.save(on_cpu))
    write_whole(header.path, safetensors.torch.save(on_cpu, safetensors_header.metadata(about)))


def _digest(about: Mapping[str, Any], content: bytes) -> str:
    """The hash of a header and of the tensors' bytes in a safetensors file."""
    digest = hashlib.sha256(safetensors_header.canonical(about).encode())
    digest.update(memoryview(content)[safetensors_header.header_size(content) :])
    return digest.hexdigest()


def _digest_of_file(about: Mapping[str, Any], file: BinaryIO) -> str | None:
    """The same for a file positioned after its header; None for a header without canonical form."""
    try:
        digest = hashlib.sha256(safetensors_header.canonical(about).encode())
    except (ValueError, RecursionError):  # NaN somewhere
        return None
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


# --- reading -----------------------------------------------------------------------------------------------


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and fully validate a checkpoint. Nothing in it is ever executed.

    Names, types and shapes of the tensors, the file's length and the hash are checked against the header
    before any tensor is read, so that no file takes more memory than its network needs.

    Raises:
        CheckpointError: the file cannot be read, is not a checkpoint, or is truncated or damaged.
    """
    path = Path(path)
    with _opened(path) as file:
        raw, header = _read(path, file)
        _check_table(header, raw.table, os.fstat(file.fileno()).st_size - raw.size)
        about = dict(raw.about)
        stated = about.pop("sha256", None)
        if stated is None or stated != _digest_of_file(about, file):
            raise altered(path, "its hash does not match its content")
        file.seek(0)
        content = file.read()
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise altered(path, error) from error
    del content
    # Copies are aligned for torch, and do not keep the file's bytes in memory.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    _check_numbers(header, tensors)
    return Checkpoint(**vars(header), tensors=tensors)


def read_header(path: str | Path) -> CheckpointHeader:
    """Read a checkpoint's metadata, without its tensors and without checking its hash.

    Raises:
        CheckpointError: as for `load_checkpoint`.
    """
    path = Path(path)
    with _opened(path) as file:
        return _read(path, file)[1]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A checkpoint's file, open for reading; operating-system errors become `CheckpointError`."""
    try:
        # Opening a FIFO would block, and reading a device might never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"cannot read the checkpoint {path}: it is not a regular file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise CheckpointError(f"cannot read the checkpoint {str(path)!r}: {harmless(error)}") from error


def _read(path: Path, file: BinaryIO) -> tuple[SafetensorsHeader, CheckpointHeader]:
    """The header of a file, raw and validated."""
    try:
        raw = safetensors_header.read_header(file)
    except ForeignFileError as error:
        raise CheckpointError(f"{path} is not a charrnn checkpoint: {harmless(error)}") from error
    except AlteredFileError as error:
        raise altered(path, error) from error
    return raw, header_from_json(path, raw.about)


# --- checking tensors --------------------------------------------------------------------------------------


def _check_table(header: CheckpointHeader, table: Mapping[str, Any], content_bytes: int) -> None:
    """Check the tensors' names, types, shapes and total size against the settings, without reading them."""
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
            raise altered(header.path, f"{name} should be {wanted}, but is {harmless(given, 60)}")
    needed = sum(_ITEM_BYTES[entry["dtype"]] * math.prod(entry["shape"]) for entry in table.values())
    if needed != content_bytes:
        raise altered(
            header.path, f"its tensors need {needed:,} bytes, but {content_bytes:,} follow its header"
        )


def _expected_tensors(header: CheckpointHeader) -> dict[str, tuple[tuple[str, ...], list[int]]]:
    """The types (safetensors' names) and shape of every tensor that a header's settings require."""
    network = header.config.network
    with torch.device("meta"):  # shapes only: no memory, whatever sizes a header claims
        weights = CharNetwork(network, len(header.vocabulary)).state_dict()
    expected: dict[str, tuple[tuple[str, ...], list[int]]] = {}
    for name, weight in weights.items():
        shape = list(weight.shape)
        expected[f"model.{name}"] = (("F32",), shape)
        for moment in MOMENTS:
            expected[f"optimizer.{name}.{moment.name}"] = (("F32",), [] if moment.scalar else shape)
    for part in CELLS[network.cell].states:
        shape = [network.layers, header.config.data.batch_size, network.hidden_size]
        expected[f"state.{part}"] = (("F32", "BF16"), shape)
    expected["random.cpu"] = (("U8",), list(torch.Generator().get_state().shape))
    return expected


def _check_numbers(header: CheckpointHeader, tensors: Mapping[str, Tensor]) -> None:
    """Check that all numbers are finite, and valid for the optimizer and the random generator."""
    positive = tuple(f".{moment.name}" for moment in MOMENTS if moment.positive)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            _require_tensor(header, name, bool(tensor.isfinite().all()), "finite")
        if name.startswith("optimizer.") and name.endswith(positive):
            _require_tensor(header, name, bool((tensor >= 0).all()), "zero or more")
    try:
        torch.Generator().set_state(tensors["random.cpu"])
    except RuntimeError:
        raise altered(header.path, "random.cpu is not a valid generator state") from None


def _require_tensor(header: CheckpointHeader, name: str, right: bool, what: str) -> None:
    if not right:
        raise altered(header.path, f"{name} is not {what}")
