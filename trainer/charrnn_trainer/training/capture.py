"""Captures work as a CUDA graph, which a single call replays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

Play = Callable[[], None]


@contextlib.contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Work on another stream than the usual one, as PyTorch's notes on CUDA graphs ask for beforehand."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def capture_graph(run: Play) -> Play:
    """Capture what ``run`` does as a CUDA graph; gives what replays it.

    Where that fails, stream and random generator are as before. `torch.cuda.graph` leaves the stream of the
    capture as the current one then, and the generator, of which dropout draws, in capture.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        with torch.cuda.graph(graph):
            run()
    except BaseException:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(before)  # not its numbers alone, which a capture refuses to change
        raise
    replay: Play = graph.replay
    return replay
