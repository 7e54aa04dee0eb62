"""The specification of the step model: all names, numbers and limits, defined only here.

Both export and the reader use this module.

Shapes are written with these letters throughout the project:

    B  batch: the number of independent streams, one row each
    T  time: characters along a stream
    V  vocabulary size
    H  hidden size
    S  state size: layers * H, twice that for an LSTM
    K  top_k_max: the number of most likely symbols that the sampler ranks
"""

from __future__ import annotations

from typing import Final

from charrnn_runtime.record import Record

FORMAT: Final = "step"
"""The value of the metadata key ``charrnn.format``."""

VERSION: Final = 1
"""The version of the format that this code writes, and the newest that it reads."""

OPSET: Final = 17
IR_VERSION: Final = 8
CONTRIB_DOMAIN: Final = "com.microsoft"
CONTRIB_VERSION: Final = 1
"""onnxruntime's own operators; only int8 files use one of them (QGemm)."""

# --- tensors -----------------------------------------------------------------------------------------------

FLOAT: Final = 1
UINT8: Final = 2
INT8: Final = 3
INT32: Final = 6
INT64: Final = 7
BOOL: Final = 9
FLOAT16: Final = 10
"""ONNX element types (onnx.proto, TensorProto.DataType)."""

BATCH_AXIS: Final = "batch"


class TensorSpec(Record):
    """An input or output of the step model.

    Attributes:
        name: the tensor's name in the graph.
        element_type: its ONNX element type.
        axes: its axes; the first is the dynamic batch axis, the second (if any) names a size of the model.
    """

    name: str
    element_type: int
    axes: tuple[str, ...]


INPUTS: Final = (
    TensorSpec("token", INT64, (BATCH_AXIS,)),
    TensorSpec("state", FLOAT, (BATCH_AXIS, "state_size")),
    TensorSpec("uniform", FLOAT, (BATCH_AXIS,)),
    TensorSpec("temperature", FLOAT, (BATCH_AXIS,)),
    TensorSpec("top_k", INT64, (BATCH_AXIS,)),
    TensorSpec("top_p", FLOAT, (BATCH_AXIS,)),
    TensorSpec("min_p", FLOAT, (BATCH_AXIS,)),
)

SETTINGS: Final = INPUTS[3:]
"""The sampling inputs; see `charrnn_runtime.sampling.Sampling`."""

OUTPUTS: Final = (
    TensorSpec("logits", FLOAT, (BATCH_AXIS, "vocab")),
    TensorSpec("next_token", INT64, (BATCH_AXIS,)),
    TensorSpec("next_state", FLOAT, (BATCH_AXIS, "state_size")),
)

# --- metadata ----------------------------------------------------------------------------------------------

METADATA_PREFIX: Final = "charrnn."

METADATA_KEYS: Final = (
    "format",
    "version",
    "cell",
    "layers",
    "hidden_size",
    "level",
    "vocabulary",
    "state_layout",
    "start_token",
    "lines",
    "top_k_max",
    "precision",
    "training",
)
"""The metadata keys of a step model, without their prefix; all are required."""

CELLS: Final = ("lstm", "gru", "rnn")
LEVELS: Final = ("char", "byte")
PRECISIONS: Final = ("fp32", "fp16", "int8")
BOOLEANS: Final = ("true", "false")

GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1}
"""The number of blocks of H rows in a layer's weights, in PyTorch's layout."""

STATES: Final = {"lstm": ("h", "c"), "gru": ("h",), "rnn": ("h",)}
"""The tensors that make up the state of each layer, in the order in which a state row has them."""

# --- limits ------------------------------------------------------------------------------------------------

MAX_FILE_BYTES: Final = 512 * 1024 * 1024
MAX_LAYERS: Final = 32
MAX_HIDDEN_SIZE: Final = 16_384
MAX_VOCABULARY: Final = 65_536
MAX_NODES: Final = 2_048
MAX_STREAMS: Final = 1_048_576
"""The maximum number of streams per call."""

MAX_THREADS: Final = 1_024

TOP_K_LIMIT: Final = 1_024
"""The maximum number of symbols that the sampler sorts; a top_k or top_p that reaches beyond keeps all."""

BYTE_VOCABULARY: Final = 256
UNKNOWN: Final = ("error", "skip", "normalize")
"""The ways to handle unknown characters; see `Vocabulary.encode`."""

DEVICES: Final = ("auto", "cpu", "cuda", "webgpu")

MAX_NUMBER: Final = 1 << 60
"""The maximum number and position of a stream, and length of a text; never reached in practice."""

MAX_SEED: Final = 2**64 - 1

DEFAULT_TEMPERATURE: Final = 0.8
DEFAULT_LENGTH: Final = 1_000
DEFAULT_ITEMS: Final = 20
DEFAULT_BEAMS: Final = 8

# --- quantization ------------------------------------------------------------------------------------------

ACTIVATION_SCALE: Final = 1.0 / 127.0
ACTIVATION_ZERO_POINT: Final = 128
"""int8 files: hidden states are in [-1, 1], so h is stored as round(127 h) + 128 in a uint8."""

WEIGHT_MIN: Final = -64
WEIGHT_MAX: Final = 63
"""int8 files: the range of a weight. On processors with AVX2 but without VNNI, the products of two adjacent
u8 x s8 pairs are summed in 16 bits, which saturates for larger weights."""


def top_k_max(vocabulary_size: int) -> int:
    """K, the number of symbols that the sampler sorts, for a vocabulary of ``vocabulary_size`` symbols."""
    return min(vocabulary_size, TOP_K_LIMIT)


class StateBlock(Record):
    """A block of a stream's state row: ``row[start : start + size]`` is the tensor ``name``."""

    name: str
    start: int
    size: int


def state_layout(cell: str, layers: int, hidden_size: int) -> tuple[StateBlock, ...]:
    """The layout of a state row: ``h0 .. h(L-1)``, then for an LSTM ``c0 .. c(L-1)``, H numbers each."""
    names = [f"{state}{layer}" for state in STATES[cell] for layer in range(layers)]
    return tuple(StateBlock(name, index * hidden_size, hidden_size) for index, name in enumerate(names))


def state_size(cell: str, layers: int, hidden_size: int) -> int:
    """S, the length of a state row."""
    return layers * hidden_size * len(STATES[cell])
