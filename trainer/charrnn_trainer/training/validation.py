"""The validation loss: how well a network predicts the end of a text, which it never learned from.

`validation_loss` is the one that training reports: every character after all that comes before it, or nearly
so. `cold_loss` reads short windows from a zero state, as models that cannot carry a state are measured; it is
higher, and comparable with theirs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from charrnn_trainer.data.lines import Lines
from charrnn_trainer.data.split import ROWS, Rows, Split
from charrnn_trainer.nn.network import CharNetwork, masked_loss

COLD_WINDOW: Final = 256
"""What `cold_loss` reads at a time."""
_CHUNK: Final = 256
_LOGITS: Final = 2**24  # how many logits may be in memory at a time
_LINE_CHARACTERS: Final = 2**14  # how many characters of lines are read at a time


def validation_rows(tokens: int, start: int) -> tuple[int, int, int]:
    """How the text from ``start`` to the end of ``tokens`` tokens is cut: rows, characters a row, warm-up.

    Examples:
        >>> validation_rows(1_115_394, 1_003_854)
        (64, 1742, 512)
    """
    rows = Split(tokens, 1, tokens - start, start).rows()
    return len(rows.begins), rows.length, rows.warm_up


@torch.no_grad()
def validation_loss(network: CharNetwork, ids: NDArray[Any], held_out: int | Rows | Lines) -> float:
    """The mean loss in nats per character over validation text.

    Every character of every row is predicted once, from what comes before it; the remainder that fills no
    row is dropped. Computed in fp32, in evaluation mode.

    Args:
        network: the network; it is left in the mode that it was in.
        ids: the whole text, ``[N]``.
        held_out: the rows or lines that are scored, or where the text's end begins that is, from 1 to N - 1.
    """
    if isinstance(held_out, Lines):
        return lines_loss(network, held_out)
    if isinstance(held_out, int):
        held_out = Split(len(ids), 1, len(ids) - held_out, held_out).rows()
    rows, length, warm_up = len(held_out.begins), held_out.length, held_out.warm_up
    # A row's first input is its warm-up's first character, its last the one before its own last: (rows, 1)
    begins = (held_out.begins - warm_up)[:, np.newaxis]
    steps = warm_up + length - 1
    chunk = max(1, min(_CHUNK, _LOGITS // (rows * network.vocabulary_size)))
    device = network.output.weight.device
    training = network.training
    network.eval()
    state = network.initial_state(rows)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for first in range(0, steps, chunk):
        last = min(first + chunk, steps)
        window = ids[begins + np.arange(first, last + 1)].astype(np.int64)  # (rows, chunk + 1)
        tokens = torch.from_numpy(window).to(device)
        logits, state = network(tokens[:, :-1], state)
        # The warm-up's predictions do not count, but that of the row's first character does.
        unscored = min(max(warm_up - 1 - first, 0), last - first)
        if unscored < last - first:
            scored = logits[:, unscored:].flatten(0, 1)
            targets = tokens[:, 1 + unscored :].flatten()
            total += functional.cross_entropy(scored, targets, reduction="sum").double()
    network.train(training)
    return float(total) / (rows * length)


@torch.no_grad()
def lines_loss(network: CharNetwork, lines: Lines) -> float:
    """The mean loss in nats per character over lines that are each read from a zero state.

    A line's characters and the newline behind it are predicted. Computed in fp32, in evaluation mode.

    Args:
        network: the network; it is left in the mode that it was in.
        lines: at least one.
    """
    device = network.output.weight.device
    training = network.training
    network.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    order = np.argsort(lines.lengths, kind="stable")
    stop = len(order)
    while stop:  # from the longest on, lines of similar length side by side
        width = int(lines.lengths[order[stop - 1]]) + 1
        chunk = min(width, _CHUNK)
        rows = max(1, min(_LINE_CHARACTERS, _LOGITS // network.vocabulary_size) // chunk)
        chosen = order[max(0, stop - rows) : stop]
        state = network.initial_state(len(chosen))
        for first in range(0, width, chunk):
            window = lines.window(chosen, first, min(first + chunk, width))
            inputs, targets = (torch.from_numpy(part).to(device) for part in window)
            logits, state = network(inputs, state)
            total += masked_loss(logits, targets)[0].double()
        stop -= len(chosen)
    network.train(training)
    return float(total) / lines.characters


@torch.no_grad()
def cold_loss(network: CharNetwork, ids: NDArray[Any], start: int, window: int = COLD_WINDOW) -> float:
    """The mean loss in nats per character over windows that are each read from a zero state.

    The text from ``start`` on is cut into windows that follow one another; in each, ``window`` characters are
    read, and after each of them the next is predicted. The remainder that fills no window is dropped. This
    is how nanoGPT measures a context of 256, but for its windows' random places.

    Args:
        network: the network; it is left in the mode that it was in.
        ids: the whole text, ``[N]``.
        start: where the validation text begins.
        window: the characters that are read.

    Raises:
        ValueError: the validation text is shorter than a window and the character after it.
    """
    count = (len(ids) - start - 1) // window
    if count < 1:
        raise ValueError(f"{len(ids) - start} characters do not fill a window of {window} and one more")
    training = network.training
    network.eval()
    device = network.output.weight.device
    total = 0.0
    for first in range(0, count, ROWS):
        begins = start + window * np.arange(first, min(first + ROWS, count))[:, np.newaxis]  # (rows, 1)
        tokens = torch.from_numpy(ids[begins + np.arange(window + 1)].astype(np.int64)).to(device)
        logits, _ = network(tokens[:, :-1], network.initial_state(len(begins)))
        targets = tokens[:, 1:].flatten()
        total += float(functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum"))
    network.train(training)
    return total / (count * window)
