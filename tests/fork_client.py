"""Stands in for a command that the fork server runs: ``python -I -S fork_client.py ADDRESS COMMAND...``.

It passes its stdin, stdout and stderr to the server, forwards signals, and exits as the command does. The
server reads the rest (arguments, folder, environment and limits) from /proc. It must start in almost no time,
so it imports no module written in Python. If the server is gone or cannot run the command, this process
executes the command itself.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGWINCH", "SIGCONT")


def open_streams() -> list[int]:
    """Which of stdin, stdout and stderr are open."""
    there = []
    for number in (0, 1, 2):
        try:
            posix.fstat(number)
        except OSError:
            continue
        there.append(number)
    return there


def hand_over(address: str) -> int | None:
    """Let the server run the command; return its exit code, or None if it did not start.

    A negative number denotes a signal, as in `subprocess`.
    """
    streams = open_streams()
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    for name in PASSED_ON:
        number = getattr(_signal, name)
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, lambda number, _: connection.send(bytes([number])))
    numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in streams)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)] if streams else []
    try:
        connection.connect(address)
        connection.sendmsg([bytes([len(streams), *streams])], rights)
        if not connection.recv(1):
            return None
    except OSError:
        return None
    ending = b""
    while chunk := connection.recv(16):
        ending += chunk
    return int(ending)  # empty if the server died, which raises an error


def end_as(status: int) -> None:
    """Exit with an exit code, or by the signal that a negative one denotes."""
    if status < 0:
        if -status != _signal.SIGKILL:
            _signal.signal(-status, _signal.SIG_DFL)
        posix.kill(posix.getpid(), -status)
    posix._exit(status)


if __name__ == "__main__":
    status = hand_over(sys.argv[1])
    if status is not None:
        end_as(status)
    with open("/proc/self/environ", "rb") as file:  # this Python may have changed its own
        pairs = [pair.split(b"=", 1) for pair in file.read().split(b"\0") if b"=" in pair]
    posix.execve(sys.argv[2], sys.argv[2:], dict(pairs))
