"""Captures GPU work as a CUDA graph, which a single call replays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

Play = Callable[[], None]


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Work on a side stream, as PyTorch's notes on CUDA graphs require for warm-up."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def capture_graph(run: Play) -> Play:
    """Capture the work of ``run`` as a CUDA graph; return a function that replays it.

    If the capture fails, stream and random generator are restored: `torch.cuda.graph` would leave the
    capture's stream current, and the generator that dropout uses in capture mode.
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
        generator.graphsafe_set_state(before)  # set_state() is refused during a capture
        raise
    replay: Play = graph.replay
    return replay
