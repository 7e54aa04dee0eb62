"""Reference implementations in plain NumPy for tests, written for clarity rather than speed.

Needs neither torch nor onnx. Random numbers come from RandomState, whose streams NumPy has frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def random_weights(
    cell: str, layers: int, hidden_size: int, vocabulary_size: int, embedding_size: int = 0, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """The weights of a network, named as torch names them; large enough that gates vary."""
    draw = np.random.RandomState(seed)

    def uniform(*shape: int, scale: float = 0.5) -> NDArray[np.float32]:
        return draw.uniform(-scale, scale, shape).astype(np.float32)

    weights = {}
    if embedding_size:
        weights["embedding.weight"] = uniform(vocabulary_size, embedding_size)
    gates = GATES[cell] * hidden_size
    for layer in range(layers):
        width = hidden_size if layer else (embedding_size or vocabulary_size)
        weights[f"rnn.weight_ih_l{layer}"] = uniform(gates, width)
        weights[f"rnn.weight_hh_l{layer}"] = uniform(gates, hidden_size)
        weights[f"rnn.bias_ih_l{layer}"] = uniform(gates)
        weights[f"rnn.bias_hh_l{layer}"] = uniform(gates)
    weights["output.weight"] = uniform(vocabulary_size, hidden_size, scale=2.0)
    weights["output.bias"] = uniform(vocabulary_size)
    return weights


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))


def naive_step(
    cell: str, layers: int, weights: Weights, token: int, state: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One character of one stream: the logits [V], and the state row after it."""
    hidden = weights["rnn.weight_hh_l0"].shape[1]
    h = [state[layer * hidden : (layer + 1) * hidden] for layer in range(layers)]
    c = [state[(layers + layer) * hidden : (layers + layer + 1) * hidden] for layer in range(layers)]
    if "embedding.weight" in weights:
        x = weights["embedding.weight"][token].astype(np.float64)
    else:
        x = np.zeros(weights["rnn.weight_ih_l0"].shape[1])
        x[token] = 1.0
    new_h, new_c = [], []
    for layer in range(layers):
        from_input = weights[f"rnn.weight_ih_l{layer}"] @ x + weights[f"rnn.bias_ih_l{layer}"]
        from_h = weights[f"rnn.weight_hh_l{layer}"] @ h[layer] + weights[f"rnn.bias_hh_l{layer}"]
        one, other = np.split(from_input, GATES[cell]), np.split(from_h, GATES[cell])
        if cell == "rnn":
            x = np.tanh(one[0] + other[0])
        elif cell == "lstm":
            i, f, o = (sigmoid(one[gate] + other[gate]) for gate in (0, 1, 3))
            new_c.append(f * c[layer] + i * np.tanh(one[2] + other[2]))
            x = o * np.tanh(new_c[-1])
        else:
            r, z = (sigmoid(one[gate] + other[gate]) for gate in (0, 1))
            n = np.tanh(one[2] + r * other[2])
            x = (1.0 - z) * n + z * h[layer]
        new_h.append(x)
    logits = weights["output.weight"] @ x + weights["output.bias"]
    return logits, np.concatenate(new_h + new_c)


def naive_kept(
    p: NDArray[np.float32], top_k: int, top_p: float, min_p: float = 0.0, k_max: int = 1024
) -> NDArray[np.bool_]:
    """Which symbols of one stream can be selected, given probabilities ``[V]``.

    Symbols are ranked by probability. A symbol is kept if its rank is below top_k, the probability before it
    is below top_p, and its own is at least min_p times the highest; or if it ties with such a symbol.
    """
    ranked = np.sort(p)[::-1][:k_max]
    bar = np.float32(0.0)  # nothing is cut if top_k and top_p keep more than k_max symbols
    mass = np.float32(0.0)
    for rank, probability in enumerate(ranked):
        mass = np.float32(mass + probability)
        last_by_rank = top_k < k_max and top_k < len(p) and rank + 1 == top_k
        last_by_mass = top_p < 1.0 and mass >= np.float32(top_p)
        if last_by_rank or last_by_mass:
            bar = probability
            break
    kept: NDArray[np.bool_] = p >= max(bar, np.float32(min_p) * ranked[0])
    return kept


def naive_sample(
    logits: NDArray[np.floating],
    u: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float = 0.0,
    k_max: int = 1024,
) -> int:
    """The next token of one stream, in float32 as the graph computes."""
    scaled = np.asarray(logits, np.float32) / np.float32(temperature)
    exponentials = np.exp(scaled - scaled.max())
    p = (exponentials / exponentials.sum(dtype=np.float32)).astype(np.float32)
    if top_k == 1:
        return int(p.argmax())  # the first of the most likely
    kept = np.where(naive_kept(p, top_k, top_p, min_p, k_max), p, np.float32(0.0))
    sums: list[np.float32] = []
    total = np.float32(0.0)
    for probability in kept:  # in the order of ids
        total = np.float32(total + probability)
        sums.append(total)
    target = np.float32(total * np.float32(u))
    return next(symbol for symbol, running in enumerate(sums) if running > target)


def naive_uniform(seed: int, stream: int, position: int) -> float:
    """The uniform number, in Python's unbounded integers."""
    mask, g = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = mix((seed + g * (stream + 1)) & mask)
    return (mix((key + g * (position + 1)) & mask) >> 40) * 2.0**-24


def naive_generate(
    cell: str,
    layers: int,
    weights: Weights,
    prompt: Sequence[int],
    length: int,
    *,
    seed: int,
    stream: int = 0,
    temperature: float = 0.8,
    top_k: int = 1 << 60,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[int]:
    """The tokens that a stream samples after reading ``prompt`` (one token or more)."""
    hidden = weights["rnn.weight_hh_l0"].shape[1]
    state = np.zeros(layers * hidden * (2 if cell == "lstm" else 1))
    for token in prompt:
        logits, state = naive_step(cell, layers, weights, token, state)
    tokens = []
    for position in range(length):
        u = naive_uniform(seed, stream, position)
        tokens.append(naive_sample(logits, u, temperature, top_k, top_p, min_p))
        logits, state = naive_step(cell, layers, weights, tokens[-1], state)
    return tokens
