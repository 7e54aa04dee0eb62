"""Compressors for the tests, one for each format that commands read."""

from __future__ import annotations

import gzip
import importlib
import lzma
import sys
from collections.abc import Callable

import pytest


def zstd_compress(data: bytes) -> bytes:
    """Compress with zstd; skip the test if no implementation is installed."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        module = importlib.import_module(name)
    except ImportError:
        pytest.skip(f"needs {name}")
    return bytes(module.compress(data))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstd_compress,
}
