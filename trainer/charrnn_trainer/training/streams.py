"""The split of a run's text, and this process's training batches."""

from __future__ import annotations

from charrnn_trainer.data.batches import Streams
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.data.lines import LineSplit, split_lines
from charrnn_trainer.data.split import Split, split_characters
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.distributed import ProcessGroup


def split_corpus(corpus: Corpus, config: TrainConfig) -> Split | LineSplit:
    """The split of a text into training and validation text."""
    if config.data.lines:
        return split_lines(corpus, config.data, config.run.seed)
    return split_characters(corpus, config.data)


def training_streams(
    corpus: Corpus, split: Split | LineSplit, config: TrainConfig, group: ProcessGroup
) -> Streams | LineBatches:
    """The training batches of this process."""
    data, seed = config.data, config.run.seed
    if isinstance(split, LineSplit):
        share = (group.rank, group.size)
        return LineBatches(split.training, data.batch_size, data.seq_length, seed, share)
    at_end = data.split == "end"
    return Streams(
        corpus.ids[: split.train_tokens] if at_end else corpus.ids,
        data.batch_size,
        data.seq_length,
        seed=seed if data.random_start else None,
        rows=group.rows(data.batch_size),
        split=None if at_end else split,
    )
