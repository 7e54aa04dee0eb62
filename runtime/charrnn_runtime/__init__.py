"""charrnn-runtime: runs character-level RNNs that charrnn exported, with onnxruntime and without PyTorch.

    from charrnn_runtime import CharRNN

    model = CharRNN.load("models/lstm.onnx")
    print(model.generate("LORD ", 500, seed=1))
"""

from charrnn_runtime.errors import (
    CharRNNError,
    DeviceError,
    ModelFormatError,
    SettingError,
    UnknownCharacterError,
)
from charrnn_runtime.model import CharRNN, Generated, LiveText, Step
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.scoring import Score
from charrnn_runtime.state import State
from charrnn_runtime.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "CharRNN",
    "CharRNNError",
    "DeviceError",
    "Generated",
    "LiveText",
    "ModelFormatError",
    "ModelInfo",
    "Sampling",
    "Score",
    "SettingError",
    "State",
    "Step",
    "UnknownCharacterError",
    "Vocabulary",
    "__version__",
]
