"""Which characters of a text validate: its end, or blocks spread over all of it.

The rest is for training, and is read as one text: where a block lies between two of its pieces, a stream
reads on from one piece to the next. (To forget there would take from the streams what they remember, in the
middle of a batch, and 64 cuts in a text are too few to teach a network anything.)
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
"""Validation text is cut into 64 rows (fewer for short texts: a row has at least 64 characters); each is read
after the 512 characters before it, so that no row starts cold."""

MAX_ROW: Final = 32_768
"""Of a row, at most this many characters are read: two million in all, which say enough of any text."""

Places = TypeVar("Places", NDArray[np.int64], Any)
"""Integers of any shape: an array, or a tensor of torch."""


@dataclass(frozen=True)
class Rows:
    """Rows of a text that are scored side by side.

    Attributes:
        begins: where each row's first scored character is, ``int64 [R]``.
        length: how many characters of each row are scored.
        warm_up: how many characters before them are read first.
    """

    begins: NDArray[np.int64]
    length: int
    warm_up: int

    @property
    def characters(self) -> int:
        """How many characters are scored."""
        return len(self.begins) * self.length


@dataclass(frozen=True)
class Split:
    """Which characters validate: blocks of equal length, each behind a piece of equal length for training.

    Attributes:
        tokens: N, the length of the text.
        blocks: K, how many blocks there are; 0 trains on the whole text.
        block: how many characters a block has.
        piece: how many characters for training stand before each block. What stands behind the last block is
            for training, too.

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
        """How many characters validate."""
        return self.blocks * self.block

    @property
    def train_tokens(self) -> int:
        """How many characters are trained on."""
        return self.tokens - self.validation_tokens

    def places(self, where: Places) -> Places:
        """Where in the text characters lie that stand at these places of the text for training."""
        if not self.blocks:
            return where
        before = (where // self.piece).clip(0, self.blocks)  # how many blocks stand before each
        moved: Places = where + before * self.block
        return moved

    def training_windows(self, ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The characters of a text ``[N]`` that are trained on, in views of some of them."""
        stretch = self.piece + self.block
        for block in range(self.blocks):
            yield from windows(ids[block * stretch : block * stretch + self.piece])
        yield from windows(ids[self.blocks * stretch :])

    def rows(self) -> Rows:
        """The rows that are scored: each block is one, or the only block is cut into up to 64.

        A row may be warmed up on what validates in another; the remainder that fills no row is dropped.
        """
        in_block = max(1, min(ROWS, self.block // MIN_ROW)) if self.blocks == 1 else 1
        begins = self.piece + np.arange(self.blocks)[:, np.newaxis] * (self.piece + self.block)  # (K, 1)
        begins = begins + np.arange(in_block) * (self.block // in_block)  # (K, R / K)
        return Rows(begins.ravel(), min(self.block // in_block, MAX_ROW), min(WARM_UP, self.piece))


def split_text(tokens: int, data: DataConfig, train_length: int | None = None) -> Split:
    """How a text of ``tokens`` characters is split.

    "end" keeps the last ``val_fraction``, or all behind the first ``train_length`` characters, where that was
    settled when several texts were read (`scanning.scan_texts`). "spread" cuts the text into up to 64
    stretches of equal length, and keeps the same share of each one's end; a block has at least 64 characters,
    or is the only one.
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
    """How a corpus is split; see `split_text`."""
    return split_text(len(corpus), data, corpus.train_length)
