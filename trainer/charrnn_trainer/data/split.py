"""Splits a text into training and validation text: the end, or blocks spread over the text, are held out.

The training text is read as one text: where a held-out block lies between two pieces, a stream continues from
one piece to the next. (Resetting the state there would have to happen in the middle of a batch, and 64 cuts
are too few to affect training.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from charrnn_trainer.config import DataConfig
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.token_file import windows

ROWS: Final = 64
MIN_ROW: Final = 64
WARM_UP: Final = 512
"""Validation text is cut into 64 rows (fewer for short texts: a row has at least 64 characters). Each is read
after the 512 characters before it, so that no row starts from a zero state."""

MAX_ROW: Final = 32_768
"""The maximum number of characters read per row: two million in total, enough for an accurate loss."""

Places = TypeVar("Places", NDArray[np.int64], Any)
"""Integers of any shape: a NumPy array or a torch tensor."""


@dataclass(frozen=True)
class Rows:
    """Rows of a text that are scored in parallel.

    Attributes:
        begins: the position of each row's first scored character, ``int64 [R]``.
        length: the number of scored characters per row.
        warm_up: the number of characters read before them.
    """

    begins: NDArray[np.int64]
    length: int
    warm_up: int

    @property
    def characters(self) -> int:
        """The number of scored characters."""
        return len(self.begins) * self.length


@dataclass(frozen=True)
class Split:
    """A split into alternating pieces of training text and blocks of validation text.

    Attributes:
        tokens: N, the length of the text.
        blocks: K, the number of blocks; 0 trains on the whole text.
        block: the length of a block.
        piece: the length of the training piece before each block. Text after the last block is also for
            training.

    Examples:
        >>> split = split_text(1_000, DataConfig(split="spread"))
        >>> split.train_tokens, split.validation_tokens, split.rows().begins.tolist()
        (900, 100, [900])
    """

    tokens: int
    blocks: int
    block: int
    piece: int

    @property
    def validation_tokens(self) -> int:
        """The number of characters for validation."""
        return self.blocks * self.block

    @property
    def train_tokens(self) -> int:
        """The number of characters for training."""
        return self.tokens - self.validation_tokens

    def places(self, where: Places) -> Places:
        """Map positions in the training text to positions in the whole text."""
        if not self.blocks:
            return where
        before = (where // self.piece).clip(0, self.blocks)  # the number of blocks before each
        moved: Places = where + before * self.block
        return moved

    def training_windows(self, ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The training text of ``ids [N]``, in windows."""
        stretch = self.piece + self.block
        for block in range(self.blocks):
            yield from windows(ids[block * stretch : block * stretch + self.piece])
        yield from windows(ids[self.blocks * stretch :])

    def rows(self) -> Rows:
        """The rows to score: each block is one; a single block is cut into up to 64.

        A row's warm-up may overlap another row. A remainder that fills no row is dropped.
        """
        in_block = max(1, min(ROWS, self.block // MIN_ROW)) if self.blocks == 1 else 1
        begins = self.piece + np.arange(self.blocks)[:, np.newaxis] * (self.piece + self.block)  # (K, 1)
        begins = begins + np.arange(in_block) * (self.block // in_block)  # (K, R / K)
        return Rows(begins.ravel(), min(self.block // in_block, MAX_ROW), min(WARM_UP, self.piece))


def split_text(tokens: int, data: DataConfig, train_length: int | None = None) -> Split:
    """The split of a text of ``tokens`` characters.

    "end" holds out the last ``val_fraction``, or everything after the first ``train_length`` characters, if
    that was decided when several texts were read (`scanning.scan_texts`). "spread" cuts the text into up to
    64 sections of equal length, and holds out the same share at the end of each; a block has at least 64
    characters, or is the only one.
    """
    end = int((1.0 - data.val_fraction) * tokens)
    if train_length is not None and data.split == "end" and data.val_fraction:
        end = train_length
    if end == tokens:
        return Split(tokens, 0, 0, tokens)
    if data.split == "end":
        return Split(tokens, 1, tokens - end, end)
    blocks = max(1, min(ROWS, (tokens - end) // MIN_ROW))
    stretch = tokens // blocks
    block = (tokens - end) // blocks
    return Split(tokens, blocks, block, stretch - block)


def split_characters(corpus: Corpus, data: DataConfig) -> Split:
    """The split of a corpus; see `split_text`."""
    return split_text(len(corpus), data, corpus.train_length)
