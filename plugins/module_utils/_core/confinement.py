# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The confinement of a root command that reads hostile files, by Landlock (landlock(7)). The command can open those
files and its own program, but no other file and no socket.

The owner of an image can rewrite its header while qemu-img has the image open, so that the header names any file of the
host. A check of the header comes too early or too late. So the kernel checks each open by inode, independent of names.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from .errors import UnsupportedAction, from_os_error
from .records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Result = TypeVar("Result")

#: Numbers of the system calls, the same on all architectures (landlock_create_ruleset(2) and its companions).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38
#: The flag with which landlock_create_ruleset(2) only returns the version of its interface.
RETURN_VERSION = 1

#: Rights (linux/landlock.h).
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
#: All rights on files that the versions 1, 2, 3 and 5 of the interface can withhold: 13, 14, 15 and 16 bits.
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_NETWORK_VERSION = 4
_NETWORK = 3

#: Per machine: its AUDIT_ARCH and the number of socket(2).
_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
#: seccomp(2) and its filter language (linux/seccomp.h, linux/filter.h).
_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_OF_NUMBER, _OFFSET_OF_ARCHITECTURE = 0, 4
_RETURN_ERROR, _RETURN_ALLOW = 0x00050000, 0x7FFF0000

#: Directories of programs and their libraries. Packages install the files there, so that no file is secret. An
#: administrator's /opt can hold secrets.
_PROGRAMS = tuple(
    f"{usr}/{name}" for usr in ("", "/usr", "/usr/local") for name in ("bin", "sbin", "lib", "lib32", "lib64")
)
_CONFIGURATION = (
    *(
        "/etc/ld.so.cache",
        "/etc/ssl/openssl.cnf",
        "/etc/crypto-policies",
        "/usr/share/crypto-policies",
        "/etc/gnutls",
        "/etc/localtime",
    ),
    *("/dev/urandom", "/dev/zero"),
)


@dataclass(frozen=True)
class Confinement:
    """The descriptors of the files that a command may open again, through ``/proc/self/fd`` or by name.

    :arg directories: descriptors of the directories in which the command looks up names.
    """

    reads: Sequence[int] = ()
    writes: Sequence[int] = ()
    directories: Sequence[int] = ()

    def list_untrusted(self) -> Sequence[int]:
        """Return the descriptors of the files that a user other than root can rewrite or replace."""
        return [
            descriptor
            for descriptor in (*self.reads, *self.writes, *self.directories)
            if _is_others(os.fstat(descriptor))
        ]


def run_confined(function: Callable[[], Result], files: Confinement) -> Result:
    """Return the result of ``function``, whose child processes can open only ``files``. Only processes of root are
    confined, because other users have no rights that a file's owner could abuse.

    Files of root are no exception, because a former owner can have them open.

    :raises UnsupportedAction: this kernel can't confine, and a user other than root can change one of the files.
    """
    if os.geteuid() != 0:
        return function()
    import ctypes
    import threading

    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, RETURN_VERSION)
    if version < 1:
        others = files.list_untrusted()
        if not others:
            return function()
        raise UnsupportedAction(
            f"{os.readlink(f'/proc/self/fd/{others[0]}')} can be changed by other users than root, and this kernel has "
            "no Landlock, without which root runs no command on such files; enable Landlock (kernel parameter "
            "lsm=landlock,...), or run the task as the owner of the datastore (become_user)."
        )
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _restrict(libc, version, files)
            results.append(function())
        except BaseException as error:  # pylint: disable=broad-except  # raised again below
            errors.append(error)

    # The function has its own thread, because the restriction applies to the thread and its child processes, and ends
    # with the thread.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _is_others(status: os.stat_result) -> bool:
    return status.st_uid != 0 or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _restrict(libc: ctypes.CDLL, version: int, files: Confinement) -> None:
    handled = (1 << _BITS.get(version, 16)) - 1
    attributes = struct.pack("QQ", handled, _NETWORK) if version >= _NETWORK_VERSION else struct.pack("Q", handled)
    ruleset = _call(libc, _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in _PROGRAMS:
            _allow_path(libc, ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in _CONFIGURATION:
            _allow_path(libc, ruleset, path, _READ_FILE)
        _allow_path(libc, ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
        _allow_path(libc, ruleset, "/proc", _READ_DIR)  # Process lists the descriptors to close there
        for descriptor in files.reads:
            _allow(libc, ruleset, descriptor, _READ_FILE)
        for descriptor in files.writes:
            _allow(libc, ruleset, descriptor, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled)
        libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(libc, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    _refuse_sockets(libc)


def _refuse_sockets(libc: ctypes.CDLL) -> None:
    """Let socket(2) fail with EPERM (seccomp(2)), because a header can name a socket whose owner never responds.
    Landlock doesn't cover sockets.
    """
    import ctypes

    class Program(ctypes.Structure):
        """The ``struct sock_fprog`` of Linux."""

        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    architecture, number = _SOCKET.get(os.uname().machine, (0, 0))
    if not number:
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in (
        (_LOAD, 0, 0, _OFFSET_OF_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 2, architecture),
        (_LOAD, 0, 0, _OFFSET_OF_NUMBER),
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _RETURN_ERROR | errno.EPERM),
        (_RETURN, 0, 0, _RETURN_ALLOW),
    ))  # fmt: skip
    program = Program(len(code) // 8, code)
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise from_os_error(OSError(number, os.strerror(number)), "confine a command by seccomp")


def _allow_path(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # some systems lack the path
        return
    try:
        _allow(libc, ruleset, descriptor, rights)
    finally:
        os.close(descriptor)


def _allow(libc: ctypes.CDLL, ruleset: int, descriptor: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= ~_READ_DIR
    _call(libc, _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        import ctypes

        code = ctypes.get_errno()
        raise from_os_error(OSError(code, os.strerror(code)), "confine a command by Landlock")
    return result


__all__ = ["Confinement", "run_confined"]
