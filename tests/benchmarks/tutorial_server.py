"""A server as in tutorials: FastAPI, PyTorch in eager mode, and one thread per request.

    python tests/benchmarks/tutorial_server.py MODEL.onnx PORT

It loads the weights of an LSTM's fp32 step model, so that it runs the same network as charrnn-serve.
"""

from __future__ import annotations

import sys

import onnx
import torch
import uvicorn
from fastapi import FastAPI
from onnx import numpy_helper
from pydantic import BaseModel
from torch import nn

from charrnn_runtime.format.reader import read_model_file


class CharModel(nn.Module):
    """The network as written in tutorials."""

    def __init__(self, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, vocabulary)
        self.lstm = nn.LSTM(vocabulary, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
        """Logits for the last of some tokens: int64 ``[1, T]`` -> ``[V]``, and the state."""
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.output(hidden[0, -1]), state


def load(path: str) -> tuple[CharModel, str]:
    """The network of a step model, and its characters by id."""
    info = read_model_file(path).info
    held = {
        each.name: torch.tensor(numpy_helper.to_array(each)) for each in onnx.load(path).graph.initializer
    }
    model = CharModel(len(info.vocabulary), info.hidden_size, info.layers)
    size = info.hidden_size
    # The first layer's input product is a table that includes biases; other layers have joined matrices.
    weights = {"embedding.weight": torch.eye(len(info.vocabulary)), "output.bias": held["output_bias"]}
    weights["output.weight"] = held["output"].T
    for layer in range(info.layers):
        first = layer == 0
        both = held["layer0_recurrent"] if first else held[f"layer{layer}_weights"]
        bias = torch.zeros(4 * size) if first else held[f"layer{layer}_weights_bias"]
        weights[f"lstm.weight_ih_l{layer}"] = held["table"].T if first else both[:size].T
        weights[f"lstm.weight_hh_l{layer}"] = both[-size:].T
        weights[f"lstm.bias_ih_l{layer}"] = bias
        weights[f"lstm.bias_hh_l{layer}"] = torch.zeros(4 * size)
    model.load_state_dict({name: weight.contiguous() for name, weight in weights.items()})
    return model.eval(), "".join(info.vocabulary.symbols)


class Ask(BaseModel):
    """A request."""

    prompt: str
    length: int = 200
    temperature: float = 0.8


def make_app(model: CharModel, characters: str) -> FastAPI:
    """Create the server application."""
    app = FastAPI()
    ids = {character: index for index, character in enumerate(characters)}

    def health() -> dict[str, str]:
        return {"status": "ok"}

    def generate(ask: Ask) -> dict[str, str]:
        tokens = torch.tensor([[ids[character] for character in ask.prompt]])
        state = None
        text = []
        with torch.inference_mode():
            for _ in range(ask.length):
                logits, state = model(tokens, state)
                tokens = torch.multinomial(torch.softmax(logits / ask.temperature, -1), 1)[None]
                text.append(characters[int(tokens)])
        return {"text": "".join(text)}

    app.add_api_route("/health", health)
    app.add_api_route("/generate", generate, methods=["POST"])
    return app


if __name__ == "__main__":
    torch.set_num_threads(1)  # more make a single stream slower, and many streams much slower
    uvicorn.run(make_app(*load(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
