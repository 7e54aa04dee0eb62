"""The settings of a training run: one frozen dataclass per concern, checked when it is made.

This is the one table of settings. Their checks, the options of ``charrnn-train`` with help and completion,
the keys of a ``config.toml`` and docs/settings.md (``python tests/settings_page.py``) are made from it.

The defaults are a well-known course exercise's: two layers of 256, batches of 100 streams by 100 characters,
a constant learning rate of 0.005.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.text_files import check_encoding
from charrnn_trainer.setting import (
    Group,
    Section,
    choice,
    number,
    switch,
    whole,
    words,
)

ONE_HOT_LIMIT: Final = 256
DEFAULT_EMBEDDING: Final = 256
"""Unless told otherwise, up to 256 symbols are read one-hot, more through an embedding of 256 numbers."""

MOST_STEPS: Final = 2**31 - 1
"""Effectively no limit."""

TEXT, TRAINING, NETWORK, BATCHES, VALIDATION, CHECKPOINTS, MACHINE = Group

# The table. Each setting has its default, what is allowed (the lowest and the highest number and their unit,
# or words), its group, its help, and what else `Setting` has.
# fmt: off


@dataclass(frozen=True)
class NetworkConfig(Section):
    """The network's architecture and dropout."""

    cell: str = choice(
        "lstm", spec.CELLS, NETWORK, "Type of recurrent cell; rnn is the plain tanh cell.",
        planned=True, from_weights=True,
    )
    layers: int = whole(
        2, 1, spec.MAX_LAYERS, "layers", NETWORK, "Number of stacked recurrent layers.",
        planned=True, from_weights=True,
    )
    hidden_size: int = whole(
        256, 1, spec.MAX_HIDDEN_SIZE, "units", NETWORK, "Units per layer.",
        short=("--hidden",), planned=True, from_weights=True,
    )
    embedding_size: int | None = whole(
        None, 0, spec.MAX_HIDDEN_SIZE, "numbers", NETWORK, "Size of the character embedding; 0 is one-hot.",
        unset=f"0 for up to {ONE_HOT_LIMIT} different characters, else {DEFAULT_EMBEDDING}",
        planned=True, from_weights=True, details="With tie_weights, the default is the hidden size.",
    )
    dropout: float = number(
        0.0, 0.0, 1.0, "fraction", NETWORK, "Dropout between layers and before the output.",
        below_high=True, planned=True,
    )
    input_dropout: float = number(
        0.0, 0.0, 1.0, "fraction", NETWORK, "Fraction of input characters to drop in training.",
        below_high=True, planned=True,
    )
    weight_drop: float = number(
        0.0, 0.0, 1.0, "fraction", NETWORK, "Dropout on the recurrent weights, drawn per batch.",
        below_high=True, planned=True,
        details="DropConnect on the hidden-to-hidden matrices (Merity et al. 2018).",
    )
    tie_weights: bool = switch(
        False, NETWORK, "Use the embedding as output weights, too.", planned=True, from_weights=True,
        details="Press and Wolf 2017, Inan et al. 2017. Where its size is not the hidden size, a matrix "
        "between them is learned, too.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tie_weights and self.embedding_size == 0:
            raise SettingError(
                "tie_weights uses the embedding as output weights, and embedding_size=0 means none; omit one "
                "of the two",
                "tie_weights", "embedding_size",
            )

    def resolve(self, vocabulary_size: int) -> NetworkConfig:
        """The same with ``embedding_size`` chosen for a vocabulary of ``vocabulary_size`` symbols."""
        if self.embedding_size is not None:
            return self
        size = 0 if vocabulary_size <= ONE_HOT_LIMIT else DEFAULT_EMBEDDING
        if self.tie_weights:
            size = self.hidden_size
        return dataclasses.replace(self, embedding_size=size)

    @property
    def label(self) -> str:
        """A short name such as ``lstm-2x256``, which file names carry."""
        return f"{self.cell}-{self.layers}x{self.hidden_size}"


@dataclass(frozen=True)
class DataConfig(Section):
    """How a text is read."""

    level: str = choice(
        "char", spec.LEVELS, TEXT, "Read characters (char), or bytes of any file (byte).", from_weights=True,
        details="Characters are Unicode code points of UTF-8 text.",
    )
    val_fraction: float = number(
        0.1, 0.0, 0.9, "fraction", VALIDATION, "Fraction of the text held out for validation; 0 for none.",
    )
    batch_size: int = whole(
        100, 1, spec.MAX_STREAMS, "streams", BATCHES, "Streams of text read in parallel (batch size).",
        short=("--batch",), planned=True,
    )
    seq_length: int = whole(
        100, 1, 1_000_000, "characters", BATCHES, "Characters per stream and batch (sequence length).",
        short=("--seq-len",), planned=True,
        details="Errors flow back through as many (truncated back-propagation through time).",
    )
    random_start: bool = switch(False, BATCHES, "Start passes at random places in the text.", planned=True)
    reset_chance: float = number(
        0.0, 0.0, 1.0, "probability", BATCHES, "Probability that a stream's state is reset before a batch.",
        planned=True, details="So the network also learns to start from a zero state.",
    )
    split: str = choice(
        "end", ("end", "spread"), VALIDATION, "What is held out: the end of the text, or blocks all over it.",
    )
    lines: bool = switch(
        False, TEXT, "The text is a list of independent lines, such as names.",
        details="Each line is read from a zero state, and whole lines, drawn by the seed, are held out for "
        "validation. Every pass shuffles the lines, so random_start and reset_chance have no effect.",
    )
    encoding: str = words(
        "auto", 40, TEXT, "Encoding of the text, such as latin-1, cp1252 or gb18030; any that Python knows.",
        unit="name",
        details="auto reads UTF-8, or what a byte-order mark says. The run's config.toml has what was read.",
    )
    separator: str = words(
        "\n", 1_000, TEXT, r"Separator between several texts; \n in it is a newline, \t a tab.",
        details="With lines, nothing is added to a text that ends with a newline.",
    )
    val_lines: int | None = whole(
        None, 0, MOST_STEPS, "lines", VALIDATION, "With --lines: lines held out for validation.",
        unset="the fraction of --val-fraction",
    )
    val_sample: int = whole(
        0, 0, 2**31 - 1, "characters", VALIDATION,
        "Characters of held-out text read by validations before the end; 0 for all.", planned=True,
        details="They are spread evenly over it; all of it is read at the end.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoding != "auto":
            check_encoding(self.encoding)
            if self.level == "byte":
                raise SettingError(
                    f"encoding={self.encoding} cannot be given with level=byte, which reads plain bytes; "
                    "omit one of the two",
                    "encoding", "level",
                )
        if self.val_lines is not None and not self.lines:
            raise SettingError(
                f"val_lines={self.val_lines} is for lists; give lines=True with it", "val_lines", "lines"
            )
        if self.lines and self.split != "end":
            raise SettingError(
                f"split={self.split} cannot be given with lines=True, which holds back items from all over "
                "the text already; omit one of the two",
                "split", "lines",
            )

        if self.lines and self.separator != "\n":
            raise SettingError(
                "separator cannot be given with lines=True, which puts a newline between "
                "texts; omit one of the two",
                "separator", "lines",
            )

    @property
    def validates(self) -> bool:
        """Whether anything is kept for validation."""
        return self.val_fraction > 0.0 if self.val_lines is None else self.val_lines > 0


@dataclass(frozen=True)
class OptimizationConfig(Section):
    """How the weights are learned (AdamW, Loshchilov and Hutter 2019)."""

    steps: int = whole(
        6_000, 1, MOST_STEPS, "batches", TRAINING, "Batches to train on, at most.",
        planned=True, on_resume=True,
    )
    minutes: float = number(
        0.0, 0.0, 1e6, "minutes", TRAINING,
        "Time limit for the whole run; settings not given are chosen for it. 0 for no limit.", on_resume=True,
        details="The time counts from the command's start to its end. A decaying schedule ends with it.",
    )
    learning_rate: float = number(
        0.005, 0.0, 1_000.0, "rate", TRAINING, "Peak learning rate.",
        above_low=True, short=("--lr",), planned=True,
    )
    schedule: str = choice(
        "constant", ("constant", "cosine", "linear"), TRAINING,
        "Learning rate over time; cosine and linear end at zero.", planned=True,
        details="Cosine: Loshchilov and Hutter 2017, without restarts.",
    )
    warmup_steps: int = whole(
        0, 0, MOST_STEPS, "steps", TRAINING, "Warm-up steps of the learning rate.",
        short=("--warmup",), planned=True, details="Linear, from zero.",
    )
    weight_decay: float = number(
        0.0, 0.0, 1_000.0, "rate", TRAINING, "AdamW's weight decay.", short=("--wd",), planned=True,
        details="Of weight matrices; biases do not decay.",
    )
    clip: float = number(
        5.0, 0.0, 1e9, "norm", TRAINING, "Norm to clip the gradient at; 0 for no clipping.",
        short=("--grad-clip",), planned=True,
    )


@dataclass(frozen=True)
class RunConfig(Section):
    """The device of a run, and how often it validates, saves and reports."""

    eval_every: int = whole(
        500, 1, MOST_STEPS, "steps", VALIDATION, "Steps between validations.", planned=True, on_resume=True,
        details="With minutes, while they take 5 % of the time at most; without, at each checkpoint, too.",
    )
    save_every: int = whole(
        2_000, 1, MOST_STEPS, "steps", CHECKPOINTS, "Steps between checkpoints; best and last are kept, too.",
        planned=True, on_resume=True,
    )
    log_every: int = whole(
        200, 1, MOST_STEPS, "steps", CHECKPOINTS, "Steps between reports.", planned=True, on_resume=True,
    )
    keep: int = whole(
        0, 0, MOST_STEPS, "checkpoints", CHECKPOINTS, "Checkpoints of --save-every to keep; 0 for all.",
        on_resume=True, details="The newest are kept, in addition to the best and the last.",
    )
    patience: int = whole(
        0, 0, MOST_STEPS, "validations", VALIDATION,
        "Stop after this many validations without a new best; 0 for never.", on_resume=True,
    )
    tensorboard: bool = switch(
        False, CHECKPOINTS, "Write TensorBoard logs to the run's folder.", on_resume=True
    )
    seed: int = whole(
        0, 0, 2**63 - 1, "integer", TRAINING,
        "Random seed. To repeat a run exactly, give the same --precision, --onednn and --threads, too; see "
        "--deterministic.", short=("-s",),
    )
    deterministic: bool = switch(
        False, MACHINE,
        "Compute the same whatever else the machine does, so that a seed gives one model.",
        details="Nothing is measured at the start: fp32, with oneDNN on a CPU, on one thread, each unless it "
        "is given. It is for runs of a number of steps, on one kind of processor and with one PyTorch; "
        "on a GPU, sums may still differ in their last bits.",
    )
    device: str = choice(
        "auto", ("auto", "cpu", "cuda"), MACHINE, "Where to train; auto takes a GPU if there is one.",
        elsewhere=(("webgpu", "which is for generating (charrnn-gen, charrnn-score, charrnn-quality)"),),
        on_resume=True,
    )
    precision: str = choice(
        "auto", ("auto", "fp32", "tf32", "bf16"), MACHINE,
        "Number format; auto measures which is fastest. tf32 is for GPUs.",
    )
    onednn: bool | None = switch(None, MACHINE, "Use oneDNN on the CPU.", unset="whichever is faster")
    threads: int | None = whole(
        None, 1, 1_024, "threads", MACHINE, "CPU threads.", unset="as many as are fastest", on_resume=True,
        details="With minutes, their number follows what else the machine does.",
    )

# fmt: on
