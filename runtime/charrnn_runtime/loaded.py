"""A loaded model: its metadata and the engine that runs its streams."""

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
    """The part of `CharRNN` that does not involve text: loading, copying, initial states, and requests.

    Copies and pickles are recreated from the validated bytes, which are validated again, with the requested
    device and threads. They share no mutable state.

    Attributes:
        info: the file's metadata.
        vocabulary: the vocabulary.
        device: the device in use: "cpu", "cuda" or "webgpu".
        device_note: why "auto" chose the CPU although a CUDA build of onnxruntime is installed; otherwise "".
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
        """In a forked child, replace the lock by a free one."""
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
            path: the path of the file; or an open binary file, which is read to its end and not closed.
            device: "auto" (CUDA if available, otherwise the CPU), "cpu", "cuda", or "webgpu" for GPUs of any
                vendor.
            threads: the number of threads that run streams on the CPU, if there are enough streams; None for
                the number of cores available to the process. A single stream always runs on one thread.
            cuda_graphs: on CUDA, capture each step once and replay it. During a capture, nothing but this
                package may use the GPU in this process.

        Raises:
            ModelFormatError: the file is not a step model, or is truncated or damaged.
            DeviceError: CUDA or WebGPU was requested but cannot be used.
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
        """Load a step model from the bytes of its file; see `load` for the other arguments."""
        return cls._of(model_of_bytes(data), device=device, threads=threads, cuda_graphs=cuda_graphs)

    @classmethod
    def _of(cls, file: ModelFile, **options: Any) -> Self:
        return cls(file.info, Engine(file, **options))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), Packed(self._engine.file), self._engine.options)

    def __repr__(self) -> str:
        info = self.info
        size = f"{info.layers}x{info.hidden_size}"
        return f"{type(self).__name__}({info.path!r}, {info.cell} {size}, device={self.device!r})"

    def initial_state(self, batch: int = 1) -> State:
        """The state of ``batch`` fresh streams, numbered from 0."""
        return State.start(whole_number_from("batch", batch, 1, spec.MAX_STREAMS), self.info.state_size)

    def scheduler(self, *, max_batch_size: int | None = None, max_waiting: int = MAX_WAITING) -> Scheduler:
        """A `Scheduler` for requests that arrive over time, as in a server; it shares this model."""
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
        """A `Request` of one stream for a `scheduler`; its output is ids.

        Args:
            prompt: the prompt; at the byte level, it may be bytes.
            length: the number of characters (bytes, at the byte level) to generate.
            state: the initial state, of one stream; a fresh one if omitted.
            number: the number of a fresh stream; `generate` numbers its prompts from 0.
            live: whether to output ids as they are sampled.
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
        """The request of one live stream, with its initial state, its settings and the text to echo."""
        settings = Settings.of(self.vocabulary, **options)
        switch("echo", echo)
        start = self.initial_state(1) if state is None else state
        check_state(start, self.info, 1)
        ids = self.vocabulary.encode(text("prompt", prompt, self.vocabulary.level), settings.unknown)
        request = make_request(self.info, ids, length, settings, start, live=True)
        return start, request, settings, self.vocabulary.decode_bytes(ids) if echo else b""

    def _scheduler(self, streams: int | None, max_batch_size: int | None = None) -> Scheduler:
        """A scheduler for this many streams, if known, with no more rows than they need."""
        scheduler = self.scheduler(max_batch_size=max_batch_size)
        if streams is not None:
            scheduler.max_batch_size = max(1, min(scheduler.max_batch_size, streams))
        return scheduler


def _unpickled(cls: Any, packed: Any, options: Any) -> LoadedModel:
    """Restore a model from a pickle, which is not trusted.

    Raises:
        ModelFormatError: the pickle does not contain a valid model.
        SettingError: device or threads are invalid.
        DeviceError: CUDA or WebGPU was requested but cannot be used.
    """
    if (
        not (isinstance(cls, type) and issubclass(cls, LoadedModel) and isinstance(packed, Packed))
        or not isinstance(options, dict)
        or options.keys() != {"device", "threads", "cuda_graphs"}
    ):
        raise ModelFormatError("the pickled model is truncated or damaged; pickle it again, or load its file")
    return cls._of(packed.unpacked(), **options)
