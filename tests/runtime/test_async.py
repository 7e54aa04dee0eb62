"""Streams for asyncio: they share one model, and block neither each other nor the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from charrnn_runtime import CharRNN, OutOfMemoryError, QueueFullError, SettingError
from charrnn_runtime.backends.buffers import Buffers
from charrnn_runtime.background import AsyncText, Background
from make_models import FOLDER


@pytest.fixture
def model() -> CharRNN:
    return CharRNN.load(FOLDER / "lstm-2x12-int8.onnx", device="cpu")


async def _whole(text: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in text])


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def _is_idle(model: CharRNN) -> bool:
    background = model._background
    return background is None or (background._thread is None and not background._scheduler.busy)


def test_a_stream_gives_the_same_as_without_asyncio(model: CharRNN) -> None:
    async def main() -> None:
        text = model.stream_async("LORD ", 300, seed=6)
        assert await _whole(text) == "".join(model.stream("LORD ", 300, seed=6))
        assert (text.generated, text.seed) == (300, 6)
        more = model.stream_async("", 50, state=text.state, seed=6)
        assert await _whole(more) == model.generate("LORD ", 350, seed=6)[305:]
        whole = model.generate("LORD ", 100, seed=6, stop="e", top_k=9)
        assert await _whole(model.stream_async("LORD ", 100, seed=6, stop="e", top_k=9, echo=True)) == whole
        assert await _whole(model.stream_async("", 0)) == ""

    asyncio.run(main())


def test_two_streams_interleave_and_the_loop_continues(model: CharRNN) -> None:
    pieces: list[str] = []
    ticks = 0

    async def read(name: str, seed: int) -> str:
        text = ""
        async for piece in model.stream_async("LORD ", 3000, seed=seed):
            pieces.append(name)
            text += piece
        return text

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> list[str]:
        ticking = asyncio.create_task(tick())
        texts = await asyncio.gather(read("a", 1), read("b", 2))
        ticking.cancel()
        return list(texts)

    texts = asyncio.run(main())
    assert texts == ["".join(model.stream("LORD ", 3000, seed=seed)) for seed in (1, 2)]
    assert pieces.index("b") < len(pieces) - 1 - pieces[::-1].index("a")
    assert pieces.index("a") < len(pieces) - 1 - pieces[::-1].index("b")
    assert ticks > 10


def test_a_slow_reader_blocks_no_other_stream_and_gets_its_whole_text(model: CharRNN) -> None:
    async def main() -> None:
        slow = model.stream_async("", 2000, seed=1)
        first = await anext(slow)
        # The slow one stops reading until the other has finished.
        assert len(await _whole(model.stream_async("", 2000, seed=2))) == 2000
        assert first + await _whole(slow) == "".join(model.stream("", 2000, seed=1))

    asyncio.run(main())


@pytest.mark.parametrize("way", ["aclose", "with", "forgotten", "task"])
def test_cancelled_work_stops(model: CharRNN, way: str) -> None:
    async def main() -> None:
        text = model.stream_async("", 10**9, seed=1)
        await anext(text)
        assert not _is_idle(model)
        if way == "aclose":
            await text.aclose()
            await text.aclose()
            assert await _whole(text) == ""
        elif way == "with":
            async with text as entered:
                assert entered is text
        elif way == "forgotten":
            del text
            gc.collect()
        else:
            task = asyncio.create_task(_whole(text))
            del text
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            gc.collect()
        await _until(lambda: _is_idle(model))

    asyncio.run(main())
    assert model.generate("", 20, seed=1)


def test_a_stream_that_is_not_read_never_starts(model: CharRNN) -> None:
    async def main() -> None:
        text = model.stream_async("", 10**9)
        await asyncio.sleep(0)
        await text.aclose()

    asyncio.run(main())
    assert _is_idle(model)


def test_streams_of_a_loop_that_was_closed_stop(model: CharRNN) -> None:
    kept: list[AsyncText] = []

    async def main() -> None:
        kept.append(model.stream_async("", 10**9, seed=1))
        await anext(kept[0])

    asyncio.run(main())
    asyncio.run(_until(lambda: _is_idle(model)))


def test_more_streams_than_the_batch_size_all_finish(model: CharRNN) -> None:
    model._background = Background(model.scheduler(max_batch_size=3))
    expected = [model.generate("", 30, seed=seed) for seed in range(20)]

    async def main() -> list[str]:
        return list(
            await asyncio.gather(*(_whole(model.stream_async("", 30, seed=seed)) for seed in range(20)))
        )

    assert asyncio.run(main()) == expected
    asyncio.run(_until(lambda: _is_idle(model)))


def test_a_full_queue_is_an_error_for_the_excess_stream(model: CharRNN) -> None:
    model._background = Background(model.scheduler(max_batch_size=1, max_waiting=1))

    async def main() -> None:
        running = model.stream_async("", 10**9, seed=1)
        await anext(running)
        waiting = asyncio.create_task(_whole(model.stream_async("", 5, seed=2)))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError, match="the queue is full: 1 of at most 1"):
            await anext(model.stream_async("", 5))
        await running.aclose()
        assert await waiting == model.generate("", 5, seed=2)

    asyncio.run(main())


def test_an_error_reaches_every_reader_and_the_model_remains_usable(
    model: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Buffers.run

    async def main() -> None:
        streams = [model.stream_async("", 10**9, seed=seed) for seed in range(3)]
        for stream in streams:
            await anext(stream)

        def fail(*_: Any) -> int:
            raise MemoryError

        monkeypatch.setattr(Buffers, "run", fail)
        for stream in streams:
            with pytest.raises(OutOfMemoryError, match="lower max_batch_size"):
                await _whole(stream)
            assert await _whole(stream) == ""
        monkeypatch.setattr(Buffers, "run", run)
        assert await _whole(model.stream_async("", 30, seed=1)) == model.generate("", 30, seed=1)

    asyncio.run(main())


def test_invalid_settings_are_rejected_immediately(model: CharRNN) -> None:
    for wrong in ({"temperature": 0}, {"stop": ""}, {"seed": -1}):
        with pytest.raises(SettingError):
            model.stream_async("", 5, **wrong)
