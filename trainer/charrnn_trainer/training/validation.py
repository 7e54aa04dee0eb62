"""The validation loss: how well a network predicts held-out text.

Training reports `validation_loss`, which predicts each character from all, or nearly all, of the text before
it. `cold_loss` reads short windows from a zero state. It is higher, and comparable to losses of models that
carry no state.
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
"""The window of `cold_loss`, in characters."""
_CHUNK: Final = 256
_LOGITS: Final = 2**24  # the maximum number of logits in memory
_LINE_CHARACTERS: Final = 2**14  # the number of characters of lines read at a time


def validation_rows(tokens: int, start: int) -> tuple[int, int, int]:
    """The rows, characters per row and warm-up of the validation text from ``start`` to ``tokens``.

    Examples:
        >>> validation_rows(1_115_394, 1_003_854)
        (64, 1742, 512)
    """
    rows = Split(tokens, 1, tokens - start, start).rows()
    return len(rows.begins), rows.length, rows.warm_up


@torch.no_grad()
def validation_loss(network: CharNetwork, ids: NDArray[Any], held_out: int | Rows | Lines) -> float:
    """The mean loss on validation text, in nats per character.

    Every character of every row is predicted once, from the text before it; a remainder that fills no row is
    dropped. Computed in fp32, in evaluation mode.

    Args:
        network: the network; its training mode is restored.
        ids: the whole text, ``[N]``.
        held_out: the rows or lines to score, or the position from which the text is scored, 1 to N - 1.
    """
    if isinstance(held_out, Lines):
        return lines_loss(network, held_out)
    if isinstance(held_out, int):
        held_out = Split(len(ids), 1, len(ids) - held_out, held_out).rows()
    rows, length, warm_up = len(held_out.begins), held_out.length, held_out.warm_up
    # A row's inputs run from the first character of its warm-up to the one before its last: (rows, 1)
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
        # Predictions within the warm-up do not count; that of the row's first character does.
        unscored = min(max(warm_up - 1 - first, 0), last - first)
        if unscored < last - first:
            scored = logits[:, unscored:].flatten(0, 1)
            targets = tokens[:, 1 + unscored :].flatten()
            total += functional.cross_entropy(scored, targets, reduction="sum").double()
    network.train(training)
    return float(total) / (rows * length)


@torch.no_grad()
def lines_loss(network: CharNetwork, lines: Lines) -> float:
    """The mean loss over lines, each read from a zero state, in nats per character.

    Each line's characters and the newline after it are predicted. Computed in fp32, in evaluation mode.

    Args:
        network: the network; its training mode is restored.
        lines: at least one line.
    """
    device = network.output.weight.device
    training = network.training
    network.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    order = np.argsort(lines.lengths, kind="stable")
    stop = len(order)
    while stop:  # longest first, lines of similar length together
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
    """The mean loss over windows, each read from a zero state, in nats per character.

    The text from ``start`` on is cut into consecutive windows. In each, ``window`` characters are read, and
    the character after each of them is predicted. A remainder that fills no window is dropped. nanoGPT
    measures a context of 256 in the same way, but with windows at random positions.

    Args:
        network: the network; its training mode is restored.
        ids: the whole text, ``[N]``.
        start: the start of the validation text.
        window: the number of characters read per window.

    Raises:
        ValueError: the validation text is shorter than a window plus one character.
    """
    count = (len(ids) - start - 1) // window
    if count < 1:
        raise ValueError(f"{len(ids) - start} characters do not fill a window of {window} plus one")
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
