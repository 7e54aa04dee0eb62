"""The sampler as graph nodes: logits and one uniform number -> the next token.

p = softmax(logits / temperature), sorted by TopK; symbols with rank < top_k and mass before them < top_p are
kept (top-k: Fan, Lewis and Dauphin, 2018; top-p, or nucleus: Holtzman et al., 2019); the first of them whose
running sum exceeds u times the kept mass is taken.

The kept mass is the running sum at the last kept symbol, not a sum of its own: two sums of the same numbers
in another order differ by rounding, and then u near 1 finds no symbol.
"""

from __future__ import annotations

import numpy as np

from charrnn_runtime.format import spec
from charrnn_trainer.graph.builder import GraphBuilder


def sampler(builder: GraphBuilder, logits: str, vocabulary_size: int, *, cpu_only: bool) -> None:
    """Add the nodes from ``logits`` (float32 ``[B, V]``) to the output ``next_token`` (int64 ``[B]``).

    Args:
        builder: where the nodes go; the format's inputs are used by name.
        logits: the name of the logits.
        vocabulary_size: V.
        cpu_only: use the operators that are fastest on the CPU. Otherwise those that have a CUDA kernel
            without cuDNN: ArgMax has none in this opset, and reductions need cuDNN, so positions are counted
            by a product with ones.
    """
    node = builder.node
    k = spec.top_k_max(vocabulary_size)
    axis = builder.constant("column", np.array([1], np.int64))

    def column(name: str) -> str:
        return node("Unsqueeze", name, axis)  # (B) -> (B, 1)

    scaled = node("Div", logits, column("temperature"))
    probabilities = node("Softmax", scaled, axis=1)  # (B, V)
    ranked, symbols = builder.nodes(
        "TopK", probabilities, builder.constant("k", np.array([k], np.int64)), outputs=2, axis=1
    )  # (B, V) -> (B, K), largest first
    cumulative = node("CumSum", ranked, builder.constant("axis", np.array(1, np.int64)))  # (B, K)

    # goes_on[rank]: is the symbol of the next rank kept too? False at the last, whatever top_k says.
    following = np.arange(1, k + 1, dtype=np.int64)
    following[-1] = np.iinfo(np.int64).max
    within_k = node("Less", builder.constant("following_rank", following[None, :]), column("top_k"))
    within_p = node("Less", cumulative, column("top_p"))
    goes_on = node("Cast", node("And", within_k, within_p), to=spec.FLOAT)

    u = column("uniform")
    if cpu_only:
        # goes_on lifts every sum but the kept mass and those behind it above 1; the least is the kept mass.
        mass = node("ReduceMin", node("Add", cumulative, goes_on), axes=[1], keepdims=1)
        above = node("Greater", cumulative, node("Mul", mass, u))
        position = node("ArgMax", node("Cast", above, to=spec.FLOAT), axis=1, keepdims=1)
        node("GatherND", symbols, position, name="next_token", batch_dims=1)  # (B, K), (B, 1) -> (B)
    else:
        ones = builder.constant("ones", np.ones((k, 1), np.float32))

        def count(value: str) -> str:
            return node("Cast", node("MatMul", value, ones), to=spec.INT64)  # (B, K) -> (B, 1)

        last = count(goes_on)
        mass = node("GatherElements", cumulative, last, axis=1)  # (B, K), (B, 1) -> (B, 1)
        below = node("LessOrEqual", cumulative, node("Mul", mass, u))
        position = count(node("Cast", below, to=spec.FLOAT))
        # On CUDA, GatherND copies its sizes from the host at every run, which no CUDA graph can capture.
        chosen = node("GatherElements", symbols, position, axis=1)  # (B, K), (B, 1) -> (B, 1)
        node("Squeeze", chosen, axis, name="next_token")  # (B, 1) -> (B)
