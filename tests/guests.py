"""Compares a process before and after importing the packages, in a separate program."""

from __future__ import annotations

LOOK = '''
import logging, os, signal, sys, threading, warnings

def look():
    """The process-wide state that modules share or that is visible outside."""
    seen = {
        "environment": dict(os.environ),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "signal handlers": {each.name: signal.getsignal(each) for each in signal.valid_signals()
                            if isinstance(each, signal.Signals)},
        "warnings filters": list(warnings.filters),
        "warnings shown by": warnings.showwarning,
        "logging": (list(logging.root.handlers), logging.root.level, logging.root.manager.disable,
                    logging.getLoggerClass(), logging._levelToName.copy(), logging.raiseExceptions),
        "hooks": (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook, sys.gettrace(),
                  sys.getprofile(), list(sys.meta_path), list(sys.path_hooks)),
        "path": list(sys.path),
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.stdout.encoding, sys.stdout.errors),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits()),
        "folder": os.getcwd(),
    }
    if os.path.isdir("/proc/self"):
        seen["native threads"] = len(os.listdir("/proc/self/task"))
        seen["mask of files"] = [line for line in open("/proc/self/status") if line.startswith("Umask")]
        seen["native environment"] = native_environment()
    if "numpy" in sys.modules:
        import numpy
        seen["numpy"] = (numpy.geterr(), numpy.get_printoptions())
    if "torch" in sys.modules:
        import torch
        seen["torch"] = {
            "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
            "deterministic": (torch.are_deterministic_algorithms_enabled(),
                              torch.get_deterministic_debug_mode()),
            "float32": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32,
                        torch.backends.cudnn.allow_tf32),
            "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark,
                      torch.backends.cudnn.deterministic),
            "mkldnn": torch.backends.mkldnn.enabled,
            "defaults": (torch.get_default_dtype(), torch.get_default_device()),
            "grad": (torch.is_grad_enabled(), torch.is_anomaly_enabled()),
            "random numbers": torch.get_rng_state().tolist(),
        }
    if "random" in sys.modules:
        import random
        seen["random numbers"] = random.getstate()
    return seen

def native_environment():
    """The environment of a new child process."""
    import subprocess
    code = "import os; print(sorted(os.environb.items()))"
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=True).stdout

def compare(before, after):
    changed = {name for name in after if name not in before or before[name] != after[name]}
    assert not changed, {name: (before.get(name), after[name]) for name in changed}

def import_all(package):
    """Import every module of a package but its commands, and take every public name."""
    import importlib, pkgutil
    package = importlib.import_module(package)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".cli" not in module.name:
            importlib.import_module(module.name)
    for name in package.__all__:
        getattr(package, name)
'''
