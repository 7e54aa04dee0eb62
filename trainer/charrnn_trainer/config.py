"""The settings of a training run: one frozen dataclass a concern, checked when it is made.

The same settings are the command's flags, the sections of a ``config.toml`` and the header of a checkpoint;
messages name the flag. The defaults are a well-known course exercise's: two layers of 256, batches of 100
streams by 100 characters, a constant learning rate of 0.005.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format import spec

SCHEDULES: Final = ("constant", "cosine", "linear")
PRECISIONS: Final = ("auto", "fp32", "tf32", "bf16")
DEVICES: Final = ("auto", "cpu", "cuda")
SPLITS: Final = ("end", "spread")

ONE_HOT_LIMIT: Final = 256
DEFAULT_EMBEDDING: Final = 256
"""Unless told otherwise, up to 256 symbols are read one-hot, more through an embedding of 256 numbers."""

MOST_STEPS: Final = 2**31 - 1
"""As good as no limit."""


@dataclass(frozen=True)
class NetworkConfig:
    """What the network is.

    Attributes:
        cell: "lstm", "gru" or "rnn" (tanh).
        layers: how many recurrent layers stand on one another.
        hidden_size: H, the numbers in a layer's hidden state.
        embedding_size: the numbers that a symbol is read as; 0 reads it one-hot. None leaves the choice to
            the vocabulary: one-hot up to 256 symbols, an embedding of 256 above. With ``tie_weights``, None
            is the hidden size.
        dropout: the share of the activations that training drops, between layers and before the output.
        input_dropout: the share of the symbols that training reads as nothing.
        weight_drop: the share of the recurrent weights that training leaves out, drawn for every batch
            (DropConnect on the hidden-to-hidden matrices, Merity et al. 2018).
        tie_weights: predict symbols by the embedding that reads them (Press and Wolf 2017, Inan et al. 2017).
            Where its size is not the hidden size, a matrix between them is learned, too.
    """

    cell: str = "lstm"
    layers: int = 2
    hidden_size: int = 256
    embedding_size: int | None = None
    dropout: float = 0.0
    input_dropout: float = 0.0
    weight_drop: float = 0.0
    tie_weights: bool = False

    def __post_init__(self) -> None:
        _choice("cell", self.cell, spec.CELLS)
        _whole("layers", self.layers, 1, spec.MAX_LAYERS)
        _whole("hidden_size", self.hidden_size, 1, spec.MAX_HIDDEN_SIZE)
        if self.embedding_size is not None:
            _whole("embedding_size", self.embedding_size, 0, spec.MAX_HIDDEN_SIZE)
        for name in ("dropout", "input_dropout", "weight_drop"):
            _number(self, name, 0.0, 1.0, below_high=True)
        _switch("tie_weights", self.tie_weights)
        if self.tie_weights and self.embedding_size == 0:
            raise SettingError(
                "tie_weights takes the embedding as output weights, and embedding_size=0 is none; leave "
                "one of the two out",
                "tie_weights",
                "embedding_size",
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
class DataConfig:
    """How a text is read.

    Attributes:
        level: "char" for Unicode code points, "byte" for the bytes of the file, which may be anything.
        val_fraction: the share of the text that is kept for validation; 0 trains on all of it.
        batch_size: B, the streams that are read side by side.
        seq_length: T, the characters of a stream that a step reads, and that errors flow back through.
        random_start: let every pass over the text begin somewhere else, so that batches never repeat.
        reset_chance: the chance with which a stream forgets, before a batch, what it has read, so that the
            network also learns to start from nothing.
        split: what is kept for validation: "end", the text's end, or "spread", many blocks all over it.
        lines: whether the text's lines are independent of one another, as in a list of names. Each is read
            from a zero state, and whole lines, drawn by the seed, are kept for validation. Passes always draw
            their order anew, so that ``random_start`` and ``reset_chance`` say nothing.
        val_lines: how many different lines are kept for validation; None leaves it to ``val_fraction``.
        val_sample: how many characters of the validation text validations on the way read, spread evenly over
            it; its whole is then read at the end. 0 reads all of it every time.
    """

    level: str = "char"
    val_fraction: float = 0.1
    batch_size: int = 100
    seq_length: int = 100
    random_start: bool = False
    reset_chance: float = 0.0
    split: str = "end"
    lines: bool = False
    val_lines: int | None = None
    val_sample: int = 0

    def __post_init__(self) -> None:
        _choice("level", self.level, spec.LEVELS)
        _number(self, "val_fraction", 0.0, 0.9)
        _choice("split", self.split, SPLITS)
        _switch("lines", self.lines)
        if self.val_lines is not None:
            _whole("val_lines", self.val_lines, 0, MOST_STEPS)
            if not self.lines:
                raise SettingError(
                    f"val_lines={self.val_lines} is for lists; give lines=True with it", "val_lines", "lines"
                )
        if self.lines and self.split != "end":
            raise SettingError(
                f"split={self.split} cannot be given with lines=True, which holds back items from all over "
                "the text already; leave one of the two out",
                "split",
                "lines",
            )
        _whole("val_sample", self.val_sample, 0, 2**31 - 1)
        _whole("batch_size", self.batch_size, 1, spec.MAX_STREAMS)
        _whole("seq_length", self.seq_length, 1, 1_000_000)
        _switch("random_start", self.random_start)
        _number(self, "reset_chance", 0.0, 1.0)

    @property
    def validates(self) -> bool:
        """Whether anything is kept for validation."""
        return self.val_fraction > 0.0 if self.val_lines is None else self.val_lines > 0


@dataclass(frozen=True)
class OptimizationConfig:
    """How the weights are learned (AdamW, Loshchilov and Hutter 2019).

    Attributes:
        steps: how many batches are learned from, at most.
        minutes: how long the run may take, with all that it prepares and the validation at its end; 0 sets no
            limit. A schedule then ends its descent when the time for steps is up.
        learning_rate: the highest learning rate.
        schedule: "constant", or down to zero at the end along a "cosine" or a "linear" line.
        warmup_steps: the steps over which the learning rate first rises from zero, in a straight line.
        weight_decay: AdamW's decay of weight matrices (biases do not decay).
        clip: the norm that the gradient is cut down to; 0 never cuts.
    """

    steps: int = 6_000
    minutes: float = 0.0
    learning_rate: float = 0.005
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip: float = 5.0

    def __post_init__(self) -> None:
        _whole("steps", self.steps, 1, MOST_STEPS)
        _number(self, "minutes", 0.0, 1e6)
        _number(self, "learning_rate", 0.0, 1_000.0, above_low=True)
        _choice("schedule", self.schedule, SCHEDULES)
        _whole("warmup_steps", self.warmup_steps, 0, MOST_STEPS)
        _number(self, "weight_decay", 0.0, 1_000.0)
        _number(self, "clip", 0.0, 1e9)


@dataclass(frozen=True)
class RunConfig:
    """Where a run computes, and when it looks up from it.

    Attributes:
        eval_every: validate every so many steps (without a time budget also wherever a checkpoint is due;
            with one, only as far as it takes no more than 5 % of the time).
        save_every: keep a checkpoint every so many steps (the best and the last are kept besides).
        log_every: report every so many steps.
        keep: how many of the checkpoints that ``save_every`` made are kept, the newest; 0 keeps all. The
            best and the last are kept besides.
        patience: end the run after so many validations without a new best; 0 never does.
        tensorboard: log to the run's folder for TensorBoard.
        seed: what all randomness of the run derives from.
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "bf16", on a GPU also "tf32", or "auto" to measure which is fastest.
        onednn: on a CPU, whether oneDNN computes the recurrent layers; None measures which is faster.
        threads: CPU threads; None measures how many are fastest, and under a time budget changes their number
            while others need the processor.
    """

    eval_every: int = 500
    save_every: int = 2_000
    log_every: int = 200
    keep: int = 0
    patience: int = 0
    tensorboard: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    onednn: bool | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("eval_every", "save_every", "log_every"):
            _whole(name, getattr(self, name), 1, MOST_STEPS)
        for name in ("keep", "patience"):
            _whole(name, getattr(self, name), 0, MOST_STEPS)
        _switch("tensorboard", self.tensorboard)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _choice("device", self.device, DEVICES)
        _choice("precision", self.precision, PRECISIONS)
        if self.onednn is not None:
            _switch("onednn", self.onednn)
        if self.threads is not None:
            _whole("threads", self.threads, 1, 1_024)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.run.patience and not self.data.validates:
            name = "val_fraction" if self.data.val_lines is None else "val_lines"
            raise SettingError(
                f"patience={self.run.patience} waits for validations, and {name}=0 keeps no text for "
                "them; leave one of the two out",
                "patience",
                name,
            )

    def flat(self) -> dict[str, Any]:
        """All settings by name, without their section."""
        return {
            name: value
            for section in dataclasses.fields(self)
            for name, value in dataclasses.asdict(getattr(self, section.name)).items()
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and name, without those that are None."""
        return {
            section.name: {
                key: value
                for key, value in dataclasses.asdict(getattr(self, section.name)).items()
                if value is not None
            }
            for section in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The settings in ``values``, and the defaults of those that it does not name.

        Raises:
            SettingError: an unknown section or key, or a value that is not allowed.
        """
        _known("section", values, tuple(SECTIONS))
        sections: dict[str, Any] = {}
        for name, section in SECTIONS.items():
            given = values.get(name, {})
            if not isinstance(given, Mapping):
                raise SettingError(f"[{name}] must be a section of settings, not {given!r}")
            _known(f"setting in [{name}]", given, tuple(item.name for item in dataclasses.fields(section)))
            sections[name] = section(**given)
        return cls(**sections)

    def replace(self, **settings: Any) -> TrainConfig:
        """The same with some settings changed, named without their section: ``replace(layers=1)``."""
        changed: dict[str, Any] = {}
        for section in dataclasses.fields(self):
            old = getattr(self, section.name)
            names = {item.name for item in dataclasses.fields(old)}
            new = {name: settings.pop(name) for name in tuple(settings) if name in names}
            changed[section.name] = dataclasses.replace(old, **new)
        if settings:
            raise SettingError(f"there is no setting named {next(iter(settings))}")
        return TrainConfig(**changed)


SECTIONS: Final = {
    "network": NetworkConfig,
    "data": DataConfig,
    "optimization": OptimizationConfig,
    "run": RunConfig,
}


@dataclass(frozen=True)
class RunFile:
    """What a ``config.toml`` holds: all that is needed to make a run again.

    Attributes:
        config: the settings.
        text: the path of the text; None for the default corpus.
        init_from: the path of the checkpoint that the weights come from; None starts at random.
    """

    config: TrainConfig
    text: str | None = None
    init_from: str | None = None

    def to_toml(self) -> str:
        """The file's text."""
        lines = ["# Trains the same model again: charrnn-train --config THIS_FILE"]
        for key in ("text", "init_from"):
            if getattr(self, key) is not None:
                lines.append(f"{key} = {_toml(getattr(self, key))}")
        for section, values in self.config.to_dict().items():
            lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Read a ``config.toml``.

        Raises:
            CharRNNError: the file cannot be read, or is no TOML.
            SettingError: an unknown setting, or a value that is not allowed.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CharRNNError(f"cannot read the settings in {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CharRNNError(f"{path} is no TOML file: {' '.join(str(error).split())}") from error
        try:
            _known("section or key", values, ("text", "init_from", *SECTIONS))
            places = {key: values.pop(key, None) for key in ("text", "init_from")}
            for key, place in places.items():
                if place is not None and (not isinstance(place, str) or not place or "\0" in place):
                    raise SettingError(f"{key} must be a path, not {place!r}")
            return cls(TrainConfig.from_dict(values), **places)
        except SettingError as error:
            raise SettingError(f"{path}: {error}", *error.parameters) from error


def _toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A path that is no Unicode cannot stand in TOML, and is told with question marks.
        value = value.encode(errors="replace").decode()
        # TOML's escapes in a basic string are JSON's, but it wants DEL escaped as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _known(what: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in given:
        if key not in allowed:
            raise SettingError(f"unknown {what}: {key!r}; allowed are {', '.join(allowed)}")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise SettingError(f"{name} must be one of {', '.join(allowed)}, not {value!r}", name)


def _switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise SettingError(f"{name} must be true or false, not {value!r}", name)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SettingError(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}", name)


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _number(
    section: object, name: str, low: float, high: float, *, above_low: bool = False, below_high: bool = False
) -> None:
    """Check a number, and keep it as a float, so that 5 and 5.0 are written alike."""
    value = getattr(section, name)
    ends = f"{'above' if above_low else 'from'} {low:g} {'to below' if below_high else 'to'} {high:g}"
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not _is_finite(value)
        or not low <= value <= high
        or (above_low and value == low)
        or (below_high and value == high)
    ):
        raise SettingError(f"{name} must be a number {ends}, not {value!r}", name)
    object.__setattr__(section, name, float(value))
