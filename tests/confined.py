"""Runs a Python module under kernel restrictions. Linux on x86-64 and Arm only.

    python -E -S tests/confined.py MODULE [ARGUMENT...]

The module cannot open a socket to the internet: the kernel kills it (SIGSYS) if it tries, whatever language
its code is in. File and folder modes apply to it even as root. The exit code is CANNOT if the kernel does not
support this.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

CANNOT = 77

_CAP_DAC_OVERRIDE = 1
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_MACHINES = {
    "x86_64": (0xC000003E, 41),
    "aarch64": (0xC00000B7, 198),
}  # the kernel's number, socket()'s number
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # instructions of its filters
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_INTERNET = (2, 10)  # IPv4, IPv6


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine() -> bool:
    """Confine this process and its children; return whether the kernel supports it."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
        return False
    machine, socket_call = _MACHINES[platform.machine()]
    code = [
        (_LOAD, 0, 0, 4),  # the machine
        (_EQUAL, 0, 5, machine),
        (_LOAD, 0, 0, 0),  # the call
        (_EQUAL, 0, 3, socket_call),
        (_LOAD, 0, 0, 16),  # its first argument
        (_EQUAL, 2, 0, _INTERNET[0]),
        (_EQUAL, 1, 0, _INTERNET[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL),
    ]
    program = _Program(len(code), b"".join(struct.pack("=HBBI", *line) for line in code))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


if __name__ == "__main__":
    if not confine():
        sys.exit(CANNOT)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
