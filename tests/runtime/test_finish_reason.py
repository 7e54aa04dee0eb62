"""The finish reason of a stream, for every method of generation."""

from __future__ import annotations

import asyncio

import pytest

from charrnn_runtime import CharRNN

CASES = [("e", "stop"), (["e", "\n"], "stop"), (None, "length")]


@pytest.mark.parametrize(("stop", "reason"), CASES)
def test_a_stream_has_a_finish_reason(lstm: CharRNN, stop: list[str] | str | None, reason: str) -> None:
    for stream in (
        lstm.stream("LORD ", 200, seed=1, stop=stop),
        lstm.stream_bytes(length=200, seed=1, stop=stop),
    ):
        assert not stream.finish_reason
        for _ in stream:
            pass
        assert stream.finish_reason == reason
        stream.close()
        assert stream.finish_reason == reason
    each = list(lstm.generate_each(["LORD ", ""], 200, seed=1, stop=stop))
    assert [one.finish_reason for one in each] == [reason] * 2


def test_a_stream_that_is_closed_before_its_end_was_cancelled(lstm: CharRNN) -> None:
    with lstm.stream("LORD ", 10_000, seed=1) as text:
        next(text)
    assert text.finish_reason == "cancelled"
    unread = lstm.stream("LORD ", 10, seed=1)
    unread.close()
    assert unread.finish_reason == "cancelled"


def test_a_stop_text_at_the_last_character_is_the_finish_reason(lstm: CharRNN) -> None:
    text = lstm.generate("LORD ", 50, seed=1, echo=False)
    stop = text[-3:]
    length = text.index(stop) + 3
    (done,) = lstm.generate_each(["LORD "], length, seed=1, stop=stop)
    assert (done.finish_reason, done.text) == ("stop", text[: length - 3])


def test_a_length_of_0_finishes_immediately_with_length(lstm: CharRNN) -> None:
    (done,) = lstm.generate_each(["LORD "], 0, seed=1, stop="e")
    assert (done.finish_reason, done.text) == ("length", "")


@pytest.mark.parametrize(("stop", "reason"), CASES)
def test_an_asyncio_stream_has_a_finish_reason(
    lstm: CharRNN, stop: list[str] | str | None, reason: str
) -> None:
    async def read() -> None:
        async with lstm.stream_async("LORD ", 200, seed=1, stop=stop) as text:
            assert not text.finish_reason
            async for _ in text:
                pass
            assert text.finish_reason == reason
        assert text.finish_reason == reason
        async with lstm.stream_async("LORD ", 100_000, seed=1) as text:
            await anext(text)
        assert text.finish_reason == "cancelled"

    asyncio.run(read())
