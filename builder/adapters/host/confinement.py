"""Confine this process with Landlock and seccomp: no Unix sockets, no new programs, only listed files.

Works without root and cannot be undone, by this process or by its children. Knows nothing about the purpose
of the process.
"""

import ctypes
import os
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from builder import arch
from builder.errors import FactoryError

_ERRNO_EACCES = 0x00050000 | 13  # SECCOMP_RET_ERRNO
_ALLOW = 0x7FFF0000
_SET_SECCOMP, _FILTER, _NO_NEW_PRIVILEGES = 22, 2, 38
_INTERNET = (2, 10)  # AF_INET, AF_INET6
_NETLINK = 16  # the C library lists this host's addresses with it
_X32 = 0x40000000  # system calls from here on are those of another ABI with the same functions
# By architecture: its number for seccomp, the number of the call socket, and those of refused system calls:
# socketpair, ptrace, process_vm_readv, process_vm_writev, execve, execveat, io_uring_setup (its requests
# include system calls that a filter does not see), pidfd_getfd, and all that change owners or modes of files.
_CALLS = {
    "x86_64": (
        *(0xC000003E, 41),
        (53, 101, 310, 311, 59, 322, 425, 438, *(90, 91, 92, 93, 94, 260, 268, 452)),
    ),
    "arm64": (0xC00000B7, 198, (199, 117, 270, 271, 221, 281, 425, 438, *(52, 53, 54, 55, 452))),
}

_CREATE_RULES, _ADD_RULE, _RESTRICT, _OLDEST_LANDLOCK = 444, 445, 446, 2  # 1 refuses renames between folders
_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE, _MAKE_FOLDER, _MAKE_FILE, _RENAME, _TRUNCATE = 0b11 << 4, 1 << 7, 1 << 8, 1 << 13, 1 << 14
_CREATE = 0b1111111 << 6  # devices, folders, files, sockets, pipes and links
_OF_FILES = _WRITE | _READ | _TRUNCATE
_OWNED = _READ_FOLDER | _OF_FILES | _REMOVE | _MAKE_FOLDER | _MAKE_FILE | _RENAME

_CAPABILITIES, _SEARCH_ALL = 0x20080522, 1 << 1  # CAP_DAC_OVERRIDE: root may run a checkout of another user


def confine(*, readable: Iterable[Path], writable: Iterable[Path]) -> list[str]:
    """Confine this process for the rest of its life; return what the kernel does not support.

    Only files below `readable` and `writable` can be opened afterwards; no links are created. The process can
    neither start programs, nor connect to Unix sockets, nor trace other processes or read their memory and
    files. It can still send signals to processes of its user. Open files stay usable.
    """
    if threading.active_count() != 1:
        raise FactoryError("a process with several threads cannot be confined")
    missing = []
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0))), "PR_SET_NO_NEW_PRIVS")
    if not _restrict_files(libc, readable, writable):
        missing.append("Landlock (Linux 5.19 or later): files are not confined")
    _drop_capabilities(libc)
    if not _restrict_calls(libc):
        missing.append("seccomp filters on this machine: Unix sockets are not confined")
    return missing


def _checked(result: int, action: str) -> int:
    if result < 0:
        raise FactoryError(f"{action} failed: {os.strerror(ctypes.get_errno())}")
    return result


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Restrict access to files with Landlock; return False if the kernel lacks Landlock."""
    version = libc.syscall(_CREATE_RULES, None, ctypes.c_size_t(0), 1)
    if version < _OLDEST_LANDLOCK:
        return False
    known = ~0 if version >= 3 else ~_TRUNCATE  # older versions do not know this right
    handled = (_EXECUTE | _OF_FILES | _READ_FOLDER | _REMOVE | _CREATE | _RENAME) & known
    attributes = struct.pack("Q", handled)
    rules = _checked(
        libc.syscall(_CREATE_RULES, attributes, ctypes.c_size_t(len(attributes)), 0),
        "landlock_create_ruleset",
    )
    try:
        for paths, access in ((readable, _READ | _READ_FOLDER), (writable, _OWNED & known)):
            for path in paths:
                _allow(libc, rules, path, access)
        _checked(libc.syscall(_RESTRICT, rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def _allow(libc: ctypes.CDLL, rules: int, path: Path, access: int) -> None:
    """Add a rule for a file, or for a folder and all below it; a path that cannot be opened is ignored."""
    with suppress(OSError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = access if path.is_dir() else access & _OF_FILES
            rule = struct.pack("=Qi", allowed, opened)
            _checked(libc.syscall(_ADD_RULE, rules, 1, rule, 0), f"landlock_add_rule for {path}")
        finally:
            os.close(opened)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = struct.pack("Ii", _CAPABILITIES, 0)
    held = ctypes.create_string_buffer(24)
    _checked(libc.capget(header, held), "capget")
    kept = [
        value & (_SEARCH_ALL if number in (0, 1) else 0)  # the lower half of the effective and permitted ones
        for number, value in enumerate(struct.unpack("6I", held))
    ]
    _checked(libc.capset(header, struct.pack("6I", *kept)), "capset")


def _restrict_calls(libc: ctypes.CDLL) -> bool:
    """Install the seccomp filter; return False without seccomp or for an unknown architecture."""
    calls = _CALLS.get(arch.of_this_machine())
    if calls is None or not Path("/proc/sys/kernel/seccomp").exists():
        return False
    program = b"".join(_program(*calls))
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    filter_ = Program(len(program) // 8, ctypes.addressof(code))
    arguments = (ctypes.c_ulong(_FILTER), ctypes.byref(filter_), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _checked(libc.prctl(_SET_SECCOMP, *arguments), "PR_SET_SECCOMP")
    return True


def _program(machine: int, socket: int, refused: Sequence[int]) -> list[bytes]:
    """Return the instructions of the seccomp filter, which allows only internet and netlink sockets."""
    load, equal, above, end = 0x20, 0x15, 0x35, 0x06
    tests = [(equal, number, "refuse") for number in refused]
    families = [(equal, family, "allow") for family in (*_INTERNET, _NETLINK)]
    lines: list[tuple[int, int, str]] = [
        (load, 4, ""),  # the machine
        (equal, machine, "next"),
        (end, _ERRNO_EACCES, ""),
        (load, 0, ""),  # the number of the system call
        (above, _X32, "refuse"),
        *tests,
        (equal, socket, "next"),
        (end, _ALLOW, ""),
        (load, 16, ""),  # the first argument
        *families,
        (end, _ERRNO_EACCES, ""),
        (end, _ALLOW, ""),
    ]
    last = len(lines) - 1
    goals: dict[str, Callable[[int], int]]
    goals = {"next": lambda at: at + 2, "refuse": lambda _: last - 1, "allow": lambda _: last}
    return [
        struct.pack("=HBBI", code, goals[goal](at) - at - 1 if goal else 0, 0, value)
        for at, (code, value, goal) in enumerate(lines)
    ]
