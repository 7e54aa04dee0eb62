"""The settings of a training run: one frozen dataclass per concern, validated on construction.

This is the single table of settings. Their checks, the options of ``charrnn-train`` with help and completion,
the keys of ``config.toml`` and docs/settings.md (``python tests/settings_page.py``) are generated from it.

The defaults are those of a well-known course exercise: two layers of 256, batches of 100 streams by 100
characters, a constant learning rate of 0.005.
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
"""By default, up to 256 symbols are one-hot inputs; more use an embedding of size 256."""

MOST_STEPS: Final = 2**31 - 1
"""Effectively no limit."""

TEXT, TRAINING, NETWORK, BATCHES, VALIDATION, CHECKPOINTS, MACHINE = Group

# The table. Each setting has its default, the values that are allowed (the lowest and the highest number and
# their unit, or words), its group, its help, and optional attributes of `Setting`.
# fmt: off


@dataclass(frozen=True)
class NetworkConfig(Section):
    """The network's architecture and dropout."""

    cell: str = choice(
        "lstm", spec.CELLS, NETWORK, "Type of recurrent cell; rnn is a plain tanh cell.",
        planned=True, from_weights=True,
    )
    layers: int = whole(
        2, 1, spec.MAX_LAYERS, "layers", NETWORK, "Number of recurrent layers.",
        planned=True, from_weights=True,
    )
    hidden_size: int = whole(
        256, 1, spec.MAX_HIDDEN_SIZE, "units", NETWORK, "Hidden units per layer.",
        short=("--hidden",), planned=True, from_weights=True,
    )
    embedding_size: int | None = whole(
        None, 0, spec.MAX_HIDDEN_SIZE, "numbers", NETWORK, "Size of the character embedding; 0 for one-hot.",
        unset=f"0 for up to {ONE_HOT_LIMIT} different characters, else {DEFAULT_EMBEDDING}",
        planned=True, from_weights=True, details="With tie_weights, the default is the hidden size.",
    )
    dropout: float = number(
        0.0, 0.0, 1.0, "fraction", NETWORK, "Dropout between layers and before the output.",
        below_high=True, planned=True,
    )
    input_dropout: float = number(
        0.0, 0.0, 1.0, "fraction", NETWORK, "Fraction of input characters dropped in training.",
        below_high=True, planned=True,
    )
    weight_drop: float = number(
        0.0, 0.0, 1.0, "fraction", NETWORK, "Dropout on the recurrent weights, drawn per batch.",
        below_high=True, planned=True,
        details="DropConnect on the hidden-to-hidden matrices (Merity et al. 2018).",
    )
    tie_weights: bool = switch(
        False, NETWORK, "Share the weights of embedding and output.", planned=True, from_weights=True,
        details="Press and Wolf 2017, Inan et al. 2017. If the embedding size differs from the hidden size, "
        "a projection between them is learned.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tie_weights and self.embedding_size == 0:
            raise SettingError(
                "tie_weights shares the embedding with the output, but embedding_size=0 means no embedding; "
                "omit one of the two",
                "tie_weights", "embedding_size",
            )

    def resolve(self, vocabulary_size: int) -> NetworkConfig:
        """A copy with ``embedding_size`` set for a vocabulary of ``vocabulary_size`` symbols."""
        if self.embedding_size is not None:
            return self
        size = 0 if vocabulary_size <= ONE_HOT_LIMIT else DEFAULT_EMBEDDING
        if self.tie_weights:
            size = self.hidden_size
        return dataclasses.replace(self, embedding_size=size)

    @property
    def label(self) -> str:
        """A short name for file names, such as ``lstm-2x256``."""
        return f"{self.cell}-{self.layers}x{self.hidden_size}"


@dataclass(frozen=True)
class DataConfig(Section):
    """How the text is read, split and batched."""

    level: str = choice(
        "char", spec.LEVELS, TEXT, "Token level: characters (char), or bytes of any file (byte).",
        from_weights=True, details="Characters are Unicode code points.",
    )
    val_fraction: float = number(
        0.1, 0.0, 0.9, "fraction", VALIDATION, "Fraction of the text held out for validation; 0 for none.",
    )
    batch_size: int = whole(
        100, 1, spec.MAX_STREAMS, "streams", BATCHES, "Batch size: streams of text read in parallel.",
        short=("--batch",), planned=True,
    )
    seq_length: int = whole(
        100, 1, 1_000_000, "characters", BATCHES, "Sequence length: characters per stream and batch.",
        short=("--seq-len",), planned=True,
        details="Truncated back-propagation through time covers as many characters.",
    )
    random_start: bool = switch(
        False, BATCHES, "Start each pass at a random position in the text.", planned=True
    )
    reset_chance: float = number(
        0.0, 0.0, 1.0, "probability", BATCHES, "Probability that a stream's state is reset before a batch.",
        planned=True, details="This also trains the network to start from a zero state.",
    )
    split: str = choice(
        "end", ("end", "spread"), VALIDATION,
        "Which text is held out: its end, or blocks spread over all of it.",
    )
    lines: bool = switch(
        False, TEXT, "The text is a list of independent lines, such as names.",
        details="Each line starts from a zero state, and whole lines, drawn by the seed, are held out for "
        "validation. Every pass shuffles the lines, so random_start and reset_chance have no effect.",
    )
    encoding: str = words(
        "auto", 40, TEXT, "Encoding of the text: any that Python supports, such as latin-1 or gb18030.",
        unit="name",
        details="auto is UTF-8, or the encoding that a byte-order mark declares. The run's config.toml "
        "records the encoding used.",
    )
    separator: str = words(
        "\n", 1_000, TEXT, r"Separator between several texts; \n is a newline, \t a tab.",
        details="With lines, nothing is added to a text that ends with a newline.",
    )
    val_lines: int | None = whole(
        None, 0, MOST_STEPS, "lines", VALIDATION, "With --lines: number of lines held out for validation.",
        unset="the share given by --val-fraction",
    )
    val_sample: int = whole(
        0, 0, 2**31 - 1, "characters", VALIDATION,
        "Characters of held-out text used by each validation during training; 0 for all.", planned=True,
        details="They are spread evenly over it. At the end, the best network is validated on all of it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoding != "auto":
            check_encoding(self.encoding)
            if self.level == "byte":
                raise SettingError(
                    f"encoding={self.encoding} cannot be given with level=byte, which reads raw bytes; "
                    "omit one of the two",
                    "encoding", "level",
                )
        if self.val_lines is not None and not self.lines:
            raise SettingError(
                f"val_lines={self.val_lines} requires lines=True; give both", "val_lines", "lines"
            )
        if self.lines and self.split != "end":
            raise SettingError(
                f"split={self.split} cannot be given with lines=True, which already holds out lines from all "
                "over the text; omit one of the two",
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
        """Whether any text is held out for validation."""
        return self.val_fraction > 0.0 if self.val_lines is None else self.val_lines > 0


@dataclass(frozen=True)
class OptimizationConfig(Section):
    """Length, learning rate and optimizer of the training (AdamW, Loshchilov and Hutter 2019)."""

    steps: int = whole(
        6_000, 1, MOST_STEPS, "batches", TRAINING, "Maximum number of training steps, one batch each.",
        planned=True, on_resume=True,
    )
    minutes: float = number(
        0.0, 0.0, 1e6, "minutes", TRAINING,
        "Time limit for the whole run; settings not given are chosen to suit it. 0 for no limit.",
        on_resume=True,
        details="The time runs from the start of the command to its end. A decaying schedule ends with it.",
    )
    learning_rate: float = number(
        0.005, 0.0, 1_000.0, "rate", TRAINING, "Peak learning rate.",
        above_low=True, short=("--lr",), planned=True,
    )
    schedule: str = choice(
        "constant", ("constant", "cosine", "linear"), TRAINING,
        "Learning-rate schedule; cosine and linear decay to zero.", planned=True,
        details="Cosine: Loshchilov and Hutter 2017, without restarts.",
    )
    warmup_steps: int = whole(
        0, 0, MOST_STEPS, "steps", TRAINING, "Learning-rate warm-up steps.",
        short=("--warmup",), planned=True, details="Linear, from zero.",
    )
    weight_decay: float = number(
        0.0, 0.0, 1_000.0, "rate", TRAINING, "Weight decay (AdamW).", short=("--wd",), planned=True,
        details="Applies to weight matrices, not to biases.",
    )
    clip: float = number(
        5.0, 0.0, 1e9, "norm", TRAINING, "Maximum gradient norm (gradient clipping); 0 for no clipping.",
        short=("--grad-clip",), planned=True,
    )


@dataclass(frozen=True)
class RunConfig(Section):
    """Device, seed and precision of a run, and how often it validates, saves and reports."""

    eval_every: int = whole(
        500, 1, MOST_STEPS, "steps", VALIDATION, "Steps between validations.", planned=True, on_resume=True,
        details="With minutes, validations take at most 5 % of the time; without, each checkpoint is also "
        "validated.",
    )
    save_every: int = whole(
        2_000, 1, MOST_STEPS, "steps", CHECKPOINTS, "Steps between checkpoints; best and last are also kept.",
        planned=True, on_resume=True,
    )
    log_every: int = whole(
        200, 1, MOST_STEPS, "steps", CHECKPOINTS, "Steps between reports.", planned=True, on_resume=True,
    )
    keep: int = whole(
        0, 0, MOST_STEPS, "checkpoints", CHECKPOINTS,
        "Number of --save-every checkpoints to keep; 0 for all.", on_resume=True,
        details="The newest are kept, in addition to the best and the last.",
    )
    patience: int = whole(
        0, 0, MOST_STEPS, "validations", VALIDATION,
        "Early stopping: validations without a new best before the run ends; 0 for never.", on_resume=True,
    )
    tensorboard: bool = switch(
        False, CHECKPOINTS, "Write TensorBoard logs to the run's folder.", on_resume=True
    )
    seed: int = whole(
        0, 0, 2**63 - 1, "integer", TRAINING,
        "Random seed. To repeat a run exactly, also give the same --precision, --onednn and --threads; see "
        "--deterministic.", short=("-s",),
    )
    deterministic: bool = switch(
        False, MACHINE,
        "Make runs reproducible: the same seed gives the same model, whatever the load of the machine.",
        details="No speed is measured at the start: the defaults are fp32 and, on a CPU, oneDNN and one "
        "thread. This holds for runs limited by steps, on the same kind of processor and with the same "
        "PyTorch version; on a GPU, sums may still differ in their last bits.",
    )
    device: str = choice(
        "auto", ("auto", "cpu", "cuda"), MACHINE, "Device to train on; auto uses a GPU if there is one.",
        elsewhere=(("webgpu", "which cannot train (charrnn-gen, charrnn-score and charrnn-quality use it)"),),
        on_resume=True,
    )
    precision: str = choice(
        "auto", ("auto", "fp32", "tf32", "bf16"), MACHINE,
        "Number format; auto measures which is fastest. tf32 needs a GPU.",
    )
    onednn: bool | None = switch(None, MACHINE, "Use oneDNN on the CPU.", unset="whichever is faster")
    threads: int | None = whole(
        None, 1, 1_024, "threads", MACHINE, "Number of CPU threads.", unset="the fastest number",
        on_resume=True, details="With minutes, the number adapts to the load of the machine.",
    )

# fmt: on
