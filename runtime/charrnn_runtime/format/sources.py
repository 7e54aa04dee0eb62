"""Sources of step models: a path, an open binary file, or bytes."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Final

from charrnn_runtime.errors import CharRNNError, ModelFormatError, SettingError, one_line
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelFile, ModelInfo, check_model_bytes, read_model_file

_PIECE: Final = 1 << 20


if TYPE_CHECKING:
    from typing import Protocol

    class Readable(Protocol):
        """A file opened for reading bytes: on disk, in memory, or in an archive."""

        def read(self, size: int = ..., /) -> bytes:
            """At most ``size`` bytes; empty at the end."""


def read_model(source: str | os.PathLike[str] | Readable) -> ModelFile:
    """Read and validate a step model.

    Args:
        source: a path; or a binary file, which is read from its current position to its end, and not closed.

    Raises:
        ModelFormatError: the model is invalid; the message says why.
        SettingError: the source is neither a path nor a binary file.
        CharRNNError: the file does not exist, or cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        return read_model_file(os.fsdecode(source))
    if not callable(getattr(source, "read", None)):
        raise SettingError(
            f"path must be a path, or an open binary file, not {type(source).__name__}; "
            "CharRNN.from_bytes takes the bytes of a model",
            "path",
        )
    name = getattr(source, "name", None)
    return model_of_bytes(_read_all(source), name if isinstance(name, str) and name else "<file>")


def model_of_bytes(data: Any, name: str = "<bytes>") -> ModelFile:
    """Validate a step model in memory.

    Args:
        data: the contents of a model file, as bytes or a buffer.
        name: the name of the model in errors.

    Raises:
        ModelFormatError: the model is invalid; the message says why.
        SettingError: the data are not bytes.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise SettingError(
            f"data must be the bytes of a model, not {type(data).__name__}; CharRNN.load takes a path", "data"
        ) from None
    if view.nbytes > spec.MAX_FILE_BYTES:
        raise ModelFormatError(
            f"{name} is not a valid charrnn model: it has {view.nbytes:,} bytes; at most "
            f"{spec.MAX_FILE_BYTES:,} are allowed"
        )
    try:
        return check_model_bytes(bytes(view), name)
    except ModelFormatError as error:
        raise ModelFormatError(f"{name} is not a valid charrnn model: {error}") from None


def _read_all(file: Readable) -> bytes:
    """The rest of a file, which may return fewer bytes than requested; or one byte more than allowed."""
    data = bytearray()
    while len(data) <= spec.MAX_FILE_BYTES:
        try:
            piece: Any = file.read(min(_PIECE, spec.MAX_FILE_BYTES + 1 - len(data)))
        except (OSError, EOFError, ValueError) as error:  # EOFError: a truncated compressed file
            said = getattr(error, "strerror", None) or one_line(str(error), most=200)
            raise CharRNNError(f"the model's file cannot be read: {said}") from error
        if isinstance(piece, str):
            raise SettingError('the model\'s file is open in text mode; open it with mode "rb"')
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise CharRNNError("the model's file cannot be read: it is non-blocking and has no data yet")
        if not piece:
            break
        data += piece
    return bytes(data)


class Packed:
    """A validated model in a pickle: the bytes for onnxruntime, and the facts that they lack.

    These bytes are not those of the file, whose hash and size are stored with them.
    """

    def __init__(self, file: ModelFile) -> None:
        info = file.info
        self.data = file.onnx_bytes
        self.digest = hashlib.sha256(self.data).hexdigest()
        self.of_file = {"path": info.path, "sha256": info.sha256, "file_bytes": info.file_bytes}

    def unpacked(self) -> ModelFile:
        """The model, validated again, since pickles are not trusted.

        Raises:
            ModelFormatError: it is not what was packed.
        """
        packed = self.__dict__
        data, digest, of_file = packed.get("data"), packed.get("digest"), packed.get("of_file")
        if (
            not isinstance(data, bytes)
            or not isinstance(of_file, dict)
            or {name: type(value) for name, value in of_file.items()}
            != {"path": str, "sha256": str, "file_bytes": int}
            or hashlib.sha256(data).hexdigest() != digest
        ):
            raise ModelFormatError(
                "the pickled model is truncated or damaged; pickle it again, or load its file"
            )
        file = model_of_bytes(data, of_file["path"])
        fields = {name: getattr(file.info, name) for name in file.info._fields}
        return ModelFile(ModelInfo(**(fields | of_file)), file.onnx_bytes)
