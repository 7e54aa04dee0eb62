"""Describes the machine of a benchmark, and measures: medians of interleaved repeats."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PACKAGES = ("charrnn-runtime", "charrnn-trainer", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")


def describe_machine() -> dict[str, str]:
    """The processor, the number of cores available to this process, and the versions of the software."""
    about = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            about[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return about


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor() or "unknown"
    text = information.read_text()
    name = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "unknown")
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split()
    kinds = [
        kind
        for kind in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
        if kind in flags
    ]
    return f"{name} ({', '.join(kinds)})" if kinds else name


def measure(contenders: Mapping[str, Callable[[], int]], *, repeats: int, seconds: float) -> dict[str, float]:
    """Microseconds per unit of work, one number per contender.

    All contenders run in turn for about ``seconds`` in every round, so that other load affects all of them
    equally; the result is the median over the rounds.

    Args:
        contenders: by name, a function that does some work and returns the number of units.
        repeats: the number of rounds.
        seconds: the time of each contender per round; it runs at least once.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()  # warm up
    for _ in range(repeats):
        for name, run in contenders.items():
            units = 0
            begin = time.perf_counter()
            while units == 0 or time.perf_counter() - begin < seconds:
                units += run()
            times[name].append((time.perf_counter() - begin) / units * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}
