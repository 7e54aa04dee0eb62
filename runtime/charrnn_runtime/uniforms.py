"""The random numbers for sampling: a pure function of (seed, stream, position).

Therefore the text of stream i depends only on its own numbers, not on other streams or on how the work is
split, and any language can reproduce it:

    key = mix(seed + G * (stream + 1))
    u   = (mix(key + G * (position + 1)) >> 40) * 2**-24

all modulo 2**64, where ``mix`` is the finaliser of splitmix64 and G its increment (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014; constants as in Vigna's splitmix64.c). The 24
bits fit a float32 exactly, so u is never 1.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from charrnn_runtime.arguments import shown, whole_number
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec

_G = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_ONE = np.uint64(1)
_TOGETHER = 16_384
"""The number of values to compute at a time: they fit in a core's cache between operations."""


def stream_keys(seeds: int | NDArray[np.uint64], streams: ArrayLike) -> NDArray[np.uint64]:
    """The key of each stream, for `uniforms_at`.

    Args:
        seeds: one seed in [0, 2**64) for all streams, or ``uint64 [B]``, one per stream.
        streams: integers ``[B]``, the stream numbers, from 0, taken modulo 2**64.

    Returns:
        ``uint64 [B]``.

    Raises:
        SettingError: the seed is out of range, or a number is no integer.
    """
    each = seeds if isinstance(seeds, np.ndarray) else np.uint64(check_seed(seeds))
    return _mix(each + _G * (_modulo("streams", streams) + _ONE))


def counters_at(keys: NDArray[np.uint64], positions: ArrayLike) -> NDArray[np.uint64]:
    """The counters for `uniforms_from` at some positions, which may be negative."""
    return keys + _G * (_modulo("positions", positions) + _ONE)


def advance(counters: NDArray[np.uint64], steps: int) -> None:
    """Advance counters by some positions, in place."""
    counters += np.array([steps], np.uint64) * _G  # arrays wrap around without a warning


def uniforms_from(counters: NDArray[np.uint64], out: NDArray[np.float32]) -> None:
    """The uniform numbers of streams from their counters on: equal to `uniforms_at`, for many at once.

    Args:
        counters: ``uint64 [R]``, from `counters_at`.
        out: float32 ``[n, R]``, filled with the numbers of n positions.
    """
    steps, streams = out.shape
    ahead = (np.arange(steps, dtype=np.uint64) * _G)[:, np.newaxis]  # (n, 1)
    together = max(1, _TOGETHER // max(streams, 1))
    for first in range(0, steps, together):
        value = counters + ahead[first : first + together]  # (R), (k, 1) -> (k, R)
        shifted = value >> np.uint64(30)
        value ^= shifted
        value *= _MULTIPLIER_1
        value ^= np.right_shift(value, np.uint64(27), out=shifted)
        value *= _MULTIPLIER_2
        value >>= np.uint64(40)  # the final shift of mix, by 31, does not affect the highest 24 bits
        numbers = out[first : first + together]
        numbers[:] = value.astype(np.int32)
        numbers *= np.float32(2.0**-24)


def uniforms_at(keys: NDArray[np.uint64], positions: ArrayLike) -> NDArray[np.float32]:
    """The uniform numbers of streams at some positions.

    Args:
        keys: ``uint64``, from `stream_keys`.
        positions: integers that broadcast against the keys: the number of characters that the stream has
            generated before, modulo 2**64 (-1 is 2**64 - 1).

    Returns:
        ``float32`` of the broadcast shape, in [0, 1 - 2**-24].

    Raises:
        SettingError: a position is no integer.
    """
    bits = _mix(keys + _G * (_modulo("positions", positions) + _ONE)) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(2.0**-24)


def check_seed(seed: int) -> int:
    """Check a seed.

    Raises:
        SettingError: it is out of range.
    """
    number = whole_number("seed", seed)
    if not 0 <= number <= spec.MAX_SEED:
        raise SettingError(f"seed must be between 0 and 2**64 - 1, not {shown(number)}", "seed")
    return number


def draw_seed() -> int:
    """A random seed from the operating system, short enough to type."""
    return int.from_bytes(os.urandom(4), "little")


def _modulo(name: str, integers: ArrayLike) -> NDArray[np.uint64]:
    """Integers of any type and size modulo 2**64, as an array: scalars would warn where they wrap around."""
    array = np.atleast_1d(np.asarray(integers))
    if array.dtype.kind in "iu":
        return array.astype(np.uint64)
    # NumPy makes objects or floats of integers that do not fit one integer type.
    exact = np.atleast_1d(np.array(integers, dtype=object))
    each = [whole_number(name, value) % 2**64 for value in exact.flat]
    return np.array(each, np.uint64).reshape(exact.shape)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser; array arithmetic on uint64 wraps modulo 2**64."""
    value = np.atleast_1d(value)
    value = (value ^ (value >> np.uint64(30))) * _MULTIPLIER_1
    value = (value ^ (value >> np.uint64(27))) * _MULTIPLIER_2
    mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed
