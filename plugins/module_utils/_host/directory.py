# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory that a user names, with its real path and its size."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .._core.command import reason, run
from .._core.digits import is_decimal
from .._core.directory import descriptor_path, open_directory, open_directory_at, opened_directory
from .._core.errors import CommandFailed, InvalidInput, StaleState, VmstoreError, os_errors, printable
from .._core.paths import absolute
from .._core.records import TYPE_CHECKING, dataclass

MEBIBYTE = 2**20

#: Upper bound of the time in which a file system must respond to the question whether a path is a directory, in
#: seconds.
PROBE_TIMEOUT = 30

#: Upper bound of the entries of a directory that :func:`look_at_many` counts itself. For more entries, du(1) is faster.
MOST_COUNTED = 500

#: Upper bound of the names in the log line about what du(1) couldn't read.
MOST_NAMES = 3


@dataclass(frozen=True)
class Directory:
    """A directory with the resolved ``path``.

    :arg size_mb: its size on disk in MiB, rounded up; ``None`` if it wasn't measured.
    :arg host: the host with the directory; ``None`` for this host.
    """

    path: str
    size_mb: int | None = None
    host: str | None = None


@dataclass(frozen=True)
class Measuring:
    """The parameters of a measurement by du(1), which counts allocated blocks, counts a hard-linked file once, and
    follows no links. The result lacks files that du can't read.

    :arg timeout: seconds.
    :arg log: gets a line about the files that du can't read.
    """

    timeout: float = 300
    log: Callable[[str], object] = str


if TYPE_CHECKING:
    #: A function that looks at a path on another host. Its arguments are the path, ``check`` and ``measuring``, as of
    #: :func:`look`. It returns the directory, or the reason why there is none.
    LookAt = Callable[[str, Callable[[str], object], "Measuring | None"], "Directory | str"]


def look(
    path: str,
    *,
    check: Callable[[str], object] = str,
    measuring: Measuring | None = None,
    others: Mapping[str, LookAt] = MappingProxyType({}),
) -> Directory:
    """Find the directory ``path`` on this host, or else on the first of other hosts that has the directory. Measure the
    directory if ``measuring`` is given.

    :arg check: gets the resolved path and raises when the path isn't acceptable. The check comes before the
        measurement, and the checked directory is measured.
    :arg others: returns the directory on another host, by the name of the host.
    :raises InvalidInput: no host has such a directory.
    :raises PathNotAllowed: a link of another user leads to a directory that doesn't belong to that user.
    :raises StaleState: the path was changed meanwhile and leads to another directory.
    :raises CommandFailed: du failed or exceeded its time.
    """
    path = absolute("path", path)
    probe = run(["stat", "--dereference", "--format=%F", "--", path], timeout=PROBE_TIMEOUT, accept=None)
    if probe.stdout == "directory\n":
        return _look_here(path, check, measuring)
    refusals = [f"the front-end: {reason(probe).rpartition(': ')[2]}"]
    if others:
        check(path)  # a refused path causes no request to another host
    for host, look_there in others.items():
        found = look_there(path, check, measuring)
        if isinstance(found, Directory):
            return found
        refusals.append(f"{host}: {found}")
    raise InvalidInput(
        "path",
        path,
        f"a directory on the front-end or on a host of the datastore's bridge_list is expected ({'; '.join(refusals)})",
    )


def _look_here(path: str, check: Callable[[str], object], measuring: Measuring | None) -> Directory:
    with os_errors(f"open the directory {path}"):
        descriptor = open_directory(path)
    try:
        real = absolute("path", os.readlink(descriptor_path(descriptor)))
        check(real)
        size = None
        if measuring is not None:
            # The checked descriptor is measured, because its path may lead to another directory by now. With a slash at
            # the end, the directory itself needn't be searchable.
            command = ["du", "-s", "-B1", "--", f"{descriptor_path(descriptor)}/"]
            completed = run(command, files={descriptor: path}, timeout=measuring.timeout, accept=None)
            output = DuOutput()
            for line in (*completed.stderr.splitlines(), *completed.stdout.splitlines()):
                output.take(line)
            size = output.size_mb("du", real, completed.returncode, measuring.log)
        if not _is_same(real, descriptor):
            raise StaleState(
                f"The path {real} came to lead to another directory while it was looked at; nothing was changed."
            )
        return Directory(real, size)
    finally:
        os.close(descriptor)


def look_at_many(paths: Sequence[str], *, check: Callable[[str], object] = str) -> dict[str, Directory]:
    """Do the same as :func:`look` for those of ``paths`` that are small directories of this host and that ``check``
    accepts, in one child process.

    The result lacks all other paths, and the paths after one that doesn't respond in time. :func:`look` raises the
    error for these.
    """
    from .._core.deadline import iterate_with_deadline  # few actions need it

    found: dict[str, Directory] = {}
    with contextlib.suppress(CommandFailed):
        with contextlib.closing(
            iterate_with_deadline(
                PROBE_TIMEOUT, "Looking at directories", lambda: (_glance(path, check) for path in paths)
            )
        ) as answers:
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
    """Return the bytes on disk, counted like du(1).

    :arg seen: files that are counted already.
    :arg left: how many more entries may be counted.
    :raises OSError: the directory has more entries, or an entry can't be read.
    """
    opened = open_directory_at(directory, ".")
    try:
        total = os.fstat(opened).st_blocks * 512
        for name in os.listdir(opened):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            status = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                below = open_directory_at(opened, name, os.O_PATH)
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


class DuOutput:
    """The output of ``du -s -B1``, read line by line, because there can be a line for each of millions of files.

    Files that vanished while du ran are no error, because directories in use change. Files that the user or a file
    server can't read are no error, because directories can belong to several users.
    """

    def __init__(self) -> None:
        self._size: int | None = None
        self._unread = 0
        self._names: list[str] = []
        self._unexpected = ""

    def take(self, line: str) -> None:
        unread = None
        if line.startswith("du: cannot "):
            import re  # only a few directories have unreadable files

            unread = re.fullmatch(r"du: cannot (?:access|read directory) (.*): ([^:]+)", line)
        size, tab, _path = line.partition("\t")
        if unread:
            if unread[2] != "No such file or directory":
                self._unread += 1
                if len(self._names) < MOST_NAMES:
                    self._names.append(f"{unread[1]} ({unread[2]})")
        elif tab and is_decimal(size) and self._size is None:
            self._size = int(size)
        else:
            self._unexpected = line

    def size_mb(self, command: str, path: str, returncode: int, log: Callable[[str], object]) -> int:
        """Return the size in MiB, rounded up.

        :arg log: gets the number and the first names of the files that du can't read.
        :raises CommandFailed: du could read nothing at all, or printed something else.
        """
        if self._size is None or self._unexpected or returncode not in (0, 1):
            why = printable(self._unexpected) or ", ".join(self._names) or "it printed no size"
            raise CommandFailed(
                f"The size of the directory {path} could not be read: the command {command!r} ended with exit code "
                f"{returncode}: {why}"
            )
        if self._unread:
            names = ", ".join([*self._names, *["..."] * (self._unread > MOST_NAMES)])
            log(
                f"the size of {path} is without {self._unread} of its files and directories that could not be read: "
                f"{names}"
            )
        return -(-self._size // MEBIBYTE)


__all__ = ["Directory", "DuOutput", "Measuring", "look", "look_at_many"]
