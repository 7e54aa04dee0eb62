"""The sampler as graph nodes: from logits and one uniform number to the next token.

p = softmax(logits / temperature), truncated by three settings. Ranked by p in descending order, ranks below
top_k are kept (Fan, Lewis and Dauphin, 2018); of these, those with less than top_p of the mass before them
(top-p, or nucleus: Holtzman et al., 2019); and of these, those with at least min_p times the largest p
(Nguyen et al., 2024). The smallest p among them is a threshold: every symbol whose p reaches it is kept. So
ties are kept or dropped together, and the order in which a device ranks them does not matter. At most
K = top_k_max symbols are ranked: a top_k or top_p that reaches beyond them truncates nothing.

The p of the kept symbols are summed in the order of ids, and the first symbol whose prefix sum exceeds u
times the last one is selected; with a top_k of 1, the first of the most likely, whatever u. The kept mass is
the last prefix sum, not a separate sum: two sums of the same numbers in different orders differ by rounding,
and then u near 1 may find no symbol. As these sums do not depend on the ranks, a step without truncation
needs no ranks, and selects the same symbol without them (see `Cuts`).
"""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format import spec

Cuts = Literal["any", "few", "min_p", "none", "greedy"]
"""The settings that a sampler supports. Samplers that support the same settings give the same token.

any: all settings; this is the sampler in files.
few: a top_k of at most `FEW`. Ranks only that many symbols; K must be larger.
min_p: top_k = K or more and top_p = 1. Sorts nothing.
none: the same, and min_p = 0.
greedy: top_k = 1. For the CPU: CUDA has no ArgMax in this operator set.
"""

PREPARED: Final[dict[str, tuple[int, tuple[int | str, ...]]]] = {
    "uniform": (spec.FLOAT, (spec.BATCH_AXIS, 1)),
    "temperature": (spec.FLOAT, (spec.BATCH_AXIS, 1)),
    "top_k": (spec.INT64, (1,)),
    "top_p": (spec.FLOAT, (spec.BATCH_AXIS, "ranked")),
    "min_p": (spec.FLOAT, (spec.BATCH_AXIS, 1)),
}
"""The inputs of prepared samplers: their types and shapes. Settings last for many steps, so they are prepared
once instead of in every step:

uniform, temperature, min_p: as in the format, as a column; the uniform numbers of greedy streams are 0.
top_k: n, the number of symbols to rank for all streams: top_k_max, or at least the largest top_k.
top_p: for each of n ranks, the mass at which it ends the kept symbols: negative from rank top_k on, so that
    any mass reaches it; before that top_p, or a value that no mass reaches if top_p is off.
"""

FEW: Final = 64
"""The number of symbols ranked by the sampler for a small top_k."""

_BELOW_ONE: Final = np.float32(1.0 - 2.0**-24)
"""The largest float32 below 1."""


class Builder(Protocol):
    """Collects the nodes and constants of a graph, and names their values."""

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant; returns its unique name."""

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name, which is ``name`` if given."""

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; returns their names."""


def add_sampler(
    builder: Builder, logits: str, vocabulary_size: int, cuts: Cuts = "any", *, prepared: bool = False
) -> None:
    """Add the nodes from ``logits`` (float32 ``[B, V]``) to the output ``next_token`` (int64 ``[B]``).

    All but the greedy one use only operators that the CPU, CUDA (without cuDNN) and WebGPU have: positions
    are counted by a product with ones instead of ArgMax, and maxima are computed by TopK instead of a
    reduction.

    Args:
        builder: receives the nodes; the format's inputs are used by name.
        logits: the name of the logits.
        vocabulary_size: V.
        cuts: the settings to support.
        prepared: read `PREPARED` instead of the format's settings; for the CPU.
    """
    sampler = (_PreparedSampler if prepared else _Sampler)(builder, vocabulary_size)
    sampler.add(logits, cuts)


class _Sampler:
    """Writes the nodes of a sampler."""

    def __init__(self, builder: Builder, vocabulary_size: int) -> None:
        self._node = builder.node
        self._nodes = builder.nodes
        self._constant = builder.constant
        self._size = vocabulary_size
        self._columns = self._constant("column", np.array([1], np.int64))
        self._sum_axis = self._constant("axis", np.array(1, np.int64))

    def add(self, logits: str, cuts: Cuts) -> None:
        """Add all nodes."""
        node = self._node
        p = node("Softmax", node("Div", logits, self._column("temperature")), axis=1)  # (B, V)
        if cuts == "greedy":
            node("ArgMax", p, axis=1, keepdims=0, name="next_token")  # (B, V) -> (B), ties: the first
        elif cuts == "none":
            self._draw(p, self._column("uniform"))
        elif cuts == "min_p":
            threshold = node("Mul", self._largest(p), self._column("min_p"))
            self._draw(self._kept(p, threshold), self._column("uniform"))
        else:
            top_k = self._column("top_k")
            several = node("Less", self._constant("greedy", np.array([[1]], np.int64)), top_k)
            share = node("Mul", self._column("uniform"), node("Cast", several, to=spec.FLOAT))
            self._draw(self._kept(p, self._threshold(p, top_k, cuts)), share)

    def _column(self, name: str) -> str:
        return self._node("Unsqueeze", name, self._columns)  # (B) -> (B, 1)

    def _largest(self, values: str) -> str:
        """The maximum of each row: (B, n) -> (B, 1)."""
        one = self._constant("one", np.array([1], np.int64))
        return self._nodes("TopK", values, one, outputs=2, axis=1)[0]

    def _threshold(self, p: str, top_k: str, cuts: Cuts) -> str:
        """The smallest kept p: (B, V) -> (B, 1)."""
        node, constant = self._node, self._constant
        k = FEW if cuts == "few" else spec.top_k_max(self._size)
        size = constant("k", np.array([k], np.int64))
        ranked = self._nodes("TopK", p, size, outputs=2, axis=1)[0]  # (B, V) -> (B, K), largest first
        # Does this rank end the kept symbols? A top_k of K is off, so the K-th rank ends nothing that the
        # one before it does not. Rounding may bring the sums to 1 early; a top_p of 1 is still off.
        ranks = np.arange(1, k + 1, dtype=np.int64)
        if cuts == "any":
            ranks[-1] = k - 1
        by_rank = node("GreaterOrEqual", constant("rank", ranks[np.newaxis]), top_k)
        sums = node("CumSum", ranked, self._sum_axis)
        mass = node("Min", sums, constant("below_one", np.array([[_BELOW_ONE]])))
        by_mass = node("GreaterOrEqual", mass, self._column("top_p"))
        ends = [node("Cast", end, to=spec.FLOAT) for end in (by_rank, by_mass)]
        # The largest p that ends them, or min_p times the largest p of all, whichever is larger.
        return self._largest(node("Mul", ranked, node("Max", *ends, self._column("min_p"))))

    def _kept(self, p: str, threshold: str) -> str:
        """p where it reaches the threshold, else 0: (B, V), (B, 1) -> (B, V)."""
        kept = self._node("Cast", self._node("GreaterOrEqual", p, threshold), to=spec.FLOAT)
        return self._node("Mul", p, kept)

    def _draw(self, kept: str, share: str) -> None:
        """Select the first id whose prefix sum exceeds a share of the last one: (B, V), (B, 1) -> (B)."""
        node, constant = self._node, self._constant
        sums = node("CumSum", kept, self._sum_axis)
        last = node("Gather", sums, constant("last_symbol", np.array([self._size - 1], np.int64)), axis=1)
        within = node("LessOrEqual", sums, node("Mul", last, share))
        # Prefix sums are monotonic, so the sums within the share are counted. The last is never among them;
        # excluding it ensures that the result is within the vocabulary.
        ones = np.ones((self._size, 1), np.float32)
        ones[-1] = 0.0
        count = node("MatMul", node("Cast", within, to=spec.FLOAT), constant("ones", ones))  # (B, 1)
        flat = node("Reshape", count, constant("flat", np.array([-1], np.int64)))  # (B, 1) -> (B)
        node("Cast", flat, to=spec.INT64, name="next_token")


class _PreparedSampler(_Sampler):
    """Writes the nodes of a sampler that reads `PREPARED`."""

    def add(self, logits: str, cuts: Cuts) -> None:
        if cuts in ("any", "few"):
            p = self._node("Softmax", self._node("Div", logits, "temperature"), axis=1)
            self._draw(self._kept(p, self._prepared_threshold(p)), "uniform")
        else:
            super().add(logits, cuts)

    def _column(self, name: str) -> str:
        return name

    def _prepared_threshold(self, p: str) -> str:
        """The smallest kept p: (B, V) -> (B, 1)."""
        node = self._node
        ranked = self._nodes("TopK", p, "top_k", outputs=2, axis=1)[0]  # (B, V) -> (B, n), largest first
        sums = node("CumSum", ranked, self._sum_axis)
        ends = node("Cast", node("GreaterOrEqual", sums, "top_p"), to=spec.FLOAT)
        return self._largest(node("Mul", ranked, node("Max", ends, "min_p")))

    def _draw(self, kept: str, share: str) -> None:
        node = self._node
        sums = node("CumSum", kept, self._sum_axis)
        last = self._constant("last_symbol", np.array([self._size - 1], np.int64))
        beyond = node("Greater", sums, node("Mul", node("Gather", sums, last, axis=1), share))
        # The first of them. If logits are NaN there is none, and the result is symbol 0, as in counting.
        node("ArgMax", node("Cast", beyond, to=spec.UINT8), axis=1, keepdims=0, name="next_token")
