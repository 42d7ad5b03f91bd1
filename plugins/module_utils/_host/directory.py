# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory that a user names: its real path and what it holds, on this host or on one of several others."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .._core.command import Completed, reason, run
from .._core.directory import descriptor_path, open_directory, opened_directory
from .._core.errors import CommandFailed, InvalidInput, StaleState, VmstoreError, from_os_error
from .._core.paths import absolute
from .ssh import SSH_FAILED, TIMED_OUT, run_script

MEBIBYTE = 2**20

#: Seconds for a file system to say whether a path is a directory.
PROBE_TIMEOUT = 30

#: Upper bound of the entries of a directory that :func:`look_at_many` counts itself. du(1) is faster at more.
MOST_COUNTED = 500

#: What :data:`LOOK` answers when there is no such directory.
NOT_A_DIRECTORY = 3

#: Prints the real path, then the size in bytes.
LOOK = "cd -P -- {path} 2>/dev/null || exit 3; pwd -P && exec du -s -B1 ."


@dataclass(frozen=True)
class Directory:
    """``path`` is resolved; ``size_mb`` is what it holds on disk in MiB, rounded up; ``host`` is ``None`` for this one."""

    path: str
    size_mb: int
    host: str | None = None


def look(path: str, *, bridges: Sequence[str] = (), check: Callable[[str], object] = str, timeout: float = 300) -> Directory:
    """Find the directory ``path`` on this host or else on the first of ``bridges`` that has it, and measure it.

    :arg check: gets the resolved path and raises when it isn't acceptable. Here it comes before the measuring, and what is
        measured is what was checked; a bridge resolves and measures within one connection.
    :arg timeout: seconds for du(1): it counts allocated blocks, a hard-linked file once, and follows no links.
    :raises InvalidInput: no host has such a directory; :raises PathNotAllowed: another user's link leads to what isn't that user's.
    :raises StaleState: the path has come to lead elsewhere meanwhile.
    :raises CommandFailed: du failed or needed longer.
    """
    path = absolute("path", path)
    probe = run(["stat", "--dereference", "--format=%F", "--", path], timeout=PROBE_TIMEOUT, accept=None)
    if probe.stdout == "directory\n":
        return _look_here(path, check, timeout)
    refusals = [f"the front-end: {reason(probe).rpartition(': ')[2]}"]
    if bridges:
        check(path)  # a bridge measures before its answer can be checked: ask it nothing that is refused anyway
    for bridge in bridges:
        completed = run_script(bridge, LOOK.format(path=shlex.quote(path)), timeout=timeout)
        if completed.returncode == NOT_A_DIRECTORY:
            refusals.append(f"{bridge}: no such directory")
        elif completed.returncode == SSH_FAILED:
            refusals.append(f"{bridge}: {reason(completed)}")
        else:
            found = read_answer(bridge, completed, timeout)
            check(found.path)
            return found
    raise InvalidInput("path", path, f"a directory on the front-end or on a host of the datastore's bridge_list is expected ({'; '.join(refusals)})")


def _look_here(path: str, check: Callable[[str], object], timeout: float) -> Directory:
    try:
        descriptor = open_directory(path)
    except OSError as error:
        raise from_os_error(error, f"open the directory {path}") from error
    try:
        real = absolute("path", os.readlink(f"/proc/self/fd/{descriptor}"))
        check(real)
        # The descriptor is what was checked, whatever its path leads to by now.
        completed = run(["du", "-s", "-B1", "--", f"/proc/self/fd/{descriptor}/."], files={descriptor: path}, timeout=timeout, accept=None)
        size = read_size("du", completed)
        if not _is_same(real, descriptor):
            raise StaleState(f"The path {real} came to lead to another directory while it was looked at; nothing was changed.")
        return Directory(real, size)
    finally:
        os.close(descriptor)


def look_at_many(paths: Sequence[str], *, check: Callable[[str], object] = str) -> dict[str, Directory]:
    """Do what :func:`look` does for those of ``paths`` that are small directories of this host and that ``check`` accepts, in one other process.

    The result lacks all the others, and what follows a path that doesn't respond in time: :func:`look` says the reason.
    """
    from .._core.deadline import each_within  # few actions need it

    found: dict[str, Directory] = {}
    with contextlib.suppress(CommandFailed):
        with contextlib.closing(each_within(PROBE_TIMEOUT, "Looking at directories", lambda: (_glance(path, check) for path in paths))) as answers:
            for path, answer in zip(paths, answers):
                if answer is not None:
                    found[path] = answer
    return found


def _glance(path: str, check: Callable[[str], object]) -> Directory | None:
    try:
        with opened_directory(path) as descriptor:
            real = absolute("path", os.readlink(descriptor_path(descriptor)))
            check(real)
            size = _count(descriptor, set(), [MOST_COUNTED])
            return Directory(real, -(-size // MEBIBYTE)) if _is_same(real, descriptor) else None
    except (OSError, VmstoreError):
        return None


def _count(directory: int, seen: set[tuple[int, int]], left: list[int]) -> int:
    """Return the bytes on disk as du(1) counts them.

    :arg seen: files that are counted already.
    :arg left: how many more entries may be counted.
    :raises OSError: there are more, or one can't be read.
    """
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        total = os.fstat(opened).st_blocks * 512
        for name in os.listdir(opened):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            status = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
                try:
                    total += _count(below, seen, left)
                finally:
                    os.close(below)
            elif status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
        return total
    finally:
        os.close(opened)


def _is_same(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def read_answer(host: str, completed: Completed, timeout: float) -> Directory:
    """The directory in what :data:`LOOK` printed: two lines, the path and du's.

    :raises CommandFailed: anything else.
    """
    if completed.returncode == TIMED_OUT:
        raise CommandFailed(f"The command 'du' on {host} did not end within {timeout:g} seconds and was stopped.")
    path, newline, rest = completed.stdout.partition("\n")
    if not newline or not path.startswith("/"):
        raise CommandFailed(f"The host {host} did not answer with a path: {reason(completed)}")
    return Directory(absolute("path", path), read_size(f"du on {host}", Completed(completed.returncode, rest, completed.stderr)), host)


def read_size(command: str, completed: Completed) -> int:
    """The size in MiB, rounded up, in the output of ``du -s -B1``.

    A file that vanished while du ran is no error: directories in use change.

    :raises CommandFailed: du could not read everything, or printed something else.
    """
    vanished = all(re.fullmatch(r"du: cannot access .*: No such file or directory", line) for line in completed.stderr.splitlines())
    match = re.fullmatch(r"([0-9]+)\t[^\n]*\n", completed.stdout)
    if match is None or not (completed.returncode == 0 or (completed.returncode == 1 and vanished)):
        raise CommandFailed(f"The command {command!r} failed with exit code {completed.returncode}: {reason(completed)}")
    return -(-int(match[1]) // MEBIBYTE)


__all__ = ["Directory", "look", "look_at_many", "read_answer", "read_size"]
