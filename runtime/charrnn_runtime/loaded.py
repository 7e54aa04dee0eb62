"""A model that was loaded: what it is, and what it runs its streams with."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Self, Unpack

from charrnn_runtime.arguments import switch, text, whole_number_from
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.forks import renew_after_fork
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelFile, ModelInfo
from charrnn_runtime.format.sources import Packed, model_of_bytes, read_model
from charrnn_runtime.options import Options, Settings
from charrnn_runtime.scheduling.request import Request
from charrnn_runtime.scheduling.scheduler import MAX_WAITING, Scheduler
from charrnn_runtime.state import State
from charrnn_runtime.texts import check_state, make_request
from charrnn_runtime.vocabulary import Vocabulary

if TYPE_CHECKING:
    from charrnn_runtime.background import Background
    from charrnn_runtime.format.sources import Readable


class LoadedModel:
    """The part of `CharRNN` that needs no text: loading, copies, fresh states, and requests for a scheduler.

    Copies and pickles are made again from the bytes that were checked, which are checked again, with the
    device and the threads that were asked for. They share nothing that changes.

    Attributes:
        info: the file's metadata.
        vocabulary: its symbols.
        device: "cpu", "cuda" or "webgpu", the device in use.
        device_note: why "auto" took the CPU although a CUDA build of onnxruntime is there; else "".
    """

    def __init__(self, info: ModelInfo, engine: Engine) -> None:
        self.info = info
        self.vocabulary: Vocabulary = info.vocabulary
        self.device = engine.device
        self.device_note = engine.device_note
        self._engine = engine
        self._background: Background | None = None
        self._background_lock = threading.Lock()
        renew_after_fork(self)

    def _after_fork(self) -> None:
        """In a forked child, replace the lock with one that is free."""
        self._background_lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Readable,
        *,
        device: str = "auto",
        threads: int | None = None,
        cuda_graphs: bool = False,
    ) -> Self:
        """Load a step model.

        Args:
            path: the file; or a binary file that is open, which is read to its end, and stays open.
            device: "auto" (CUDA where it can be used, else the CPU), "cpu", "cuda", or "webgpu", which is for
                GPUs of any maker.
            threads: how many threads run streams on the CPU, where there are enough streams for them; None
                for as many as the process may use cores. A single stream always runs on one.
            cuda_graphs: on CUDA, capture each step once and replay it; off unless asked for. While a step is
                captured, nothing but this package may use the GPU in this process.

        Raises:
            ModelFormatError: the file is not a step model, or is truncated or damaged.
            DeviceError: CUDA or WebGPU was asked for and cannot be used.
            CharRNNError: the file cannot be read.
        """
        return cls._of(read_model(path), device=device, threads=threads, cuda_graphs=cuda_graphs)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        device: str = "auto",
        threads: int | None = None,
        cuda_graphs: bool = False,
    ) -> Self:
        """A step model from the bytes of its file; for the rest see `load`."""
        return cls._of(model_of_bytes(data), device=device, threads=threads, cuda_graphs=cuda_graphs)

    @classmethod
    def _of(cls, file: ModelFile, **asked: Any) -> Self:
        return cls(file.info, Engine(file, **asked))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), Packed(self._engine.file), self._engine.asked)

    def __repr__(self) -> str:
        info = self.info
        size = f"{info.layers}x{info.hidden_size}"
        return f"{type(self).__name__}({info.path!r}, {info.cell} {size}, device={self.device!r})"

    def initial_state(self, batch: int = 1) -> State:
        """The state of ``batch`` streams, numbered from 0, that have read nothing."""
        return State.start(whole_number_from("batch", batch, 1, spec.MAX_STREAMS), self.info.state_size)

    def scheduler(self, *, max_batch_size: int | None = None, max_waiting: int = MAX_WAITING) -> Scheduler:
        """A `Scheduler` for requests that come and go, as in a server; what it runs shares this model."""
        return Scheduler(self._engine, max_batch_size=max_batch_size, max_waiting=max_waiting)

    def request(
        self,
        prompt: str | bytes = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        state: State | None = None,
        number: int = 0,
        live: bool = False,
        logprobs: int | None = None,
        **options: Unpack[Options],
    ) -> Request:
        """A `Request` of one stream for a `scheduler`; what it gives are ids.

        Args:
            prompt: a text to read first; at the byte level, bytes too.
            length: how many characters (bytes, at the byte level) to generate.
            state: the state of one stream to continue from; a fresh one if omitted.
            number: the number of a fresh stream, as that of the i-th prompt in `generate` is i.
            live: whether its ids are wanted as they come.
            logprobs: as for `generate_each`.
            options: see `Options`.
        """
        settings = Settings.of(self.vocabulary, logprobs=logprobs, **options)
        number = whole_number_from("number", number, 0, spec.MAX_NUMBER)
        start = self.initial_state(1).fork(1, number) if state is None else state
        check_state(start, self.info, 1)
        ids = self.vocabulary.encode(text("prompt", prompt, self.vocabulary.level), settings.unknown)
        return make_request(self.info, ids, length, settings, start, live=live)

    def _live(
        self, prompt: str | bytes, length: int, state: State | None, options: Options, *, echo: bool
    ) -> tuple[State, Request, Settings, bytes]:
        """The request of one live stream; gives its state before, its settings and what is echoed, too."""
        settings = Settings.of(self.vocabulary, **options)
        switch("echo", echo)
        start = self.initial_state(1) if state is None else state
        check_state(start, self.info, 1)
        ids = self.vocabulary.encode(text("prompt", prompt, self.vocabulary.level), settings.unknown)
        request = make_request(self.info, ids, length, settings, start, live=True)
        return start, request, settings, self.vocabulary.decode_bytes(ids) if echo else b""

    def _scheduler(self, streams: int | None, max_batch_size: int | None = None) -> Scheduler:
        """A scheduler for this many streams, if that is known: with no more rows than these need."""
        scheduler = self.scheduler(max_batch_size=max_batch_size)
        if streams is not None:
            scheduler.max_batch_size = max(1, min(scheduler.max_batch_size, streams))
        return scheduler


def _unpickled(cls: Any, packed: Any, asked: Any) -> LoadedModel:
    """The model of a pickle, which may hold anything.

    Raises:
        ModelFormatError: it holds no model.
        SettingError: device or threads are invalid.
        DeviceError: CUDA or WebGPU was asked for and cannot be used.
    """
    if (
        not (isinstance(cls, type) and issubclass(cls, LoadedModel) and isinstance(packed, Packed))
        or not isinstance(asked, dict)
        or asked.keys() != {"device", "threads", "cuda_graphs"}
    ):
        raise ModelFormatError("the pickled model is truncated or damaged; pickle it again, or load its file")
    return cls._of(packed.unpacked(), **asked)
