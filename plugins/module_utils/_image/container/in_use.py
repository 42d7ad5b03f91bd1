# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The users of the disks in a cache: programs that have a disk open, and libvirt's domains with disks that are based on
a cached one.

The backing chains of the domains' disks are followed by the headers of the files, because the definition of a domain
that is shut off lacks them. A guest may have written such a header.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from ..._core.deadline import run_with_deadline
from ..._core.directory import open_file_at, opened_parent
from ..._core.errors import PathNotAllowed, from_os_error
from ..._core.identity import acting_as, owner_of
from ..._host.open_files import open_files
from ..._libvirt.devices.disk_files import files_of_local_domains
from ..qcow2 import HEADER_SIZE, Qcow2Header

#: Upper bound of the time to read the domains and the headers of their disks in seconds, because a disk may be on a
#: dead server.
DEADLINE = 60
#: Upper bound of the files of a backing chain.
_LONGEST_CHAIN = 200
#: Upper bound of the name of a backing file in bytes (QEMU, docs/interop/qcow2.txt).
_LONGEST_NAME = 1023


def find_users(directory: str) -> Mapping[str, Sequence[str]]:
    """Return the users of the files in a directory by the name of the file.

    :raises TimedOut: the disks of the domains could not be read in time.
    :raises LibvirtFailed: the domains can't be read.
    :raises FileAccessFailed: the header of a disk can't be read, so that its users aren't known.
    """
    return run_with_deadline(DEADLINE, f"Looking for the users of {directory}", lambda: _find_users(directory))


def _find_users(directory: str) -> dict[str, list[str]]:
    directory = os.path.realpath(directory)
    found: dict[str, list[str]] = {}

    def add(path: str, user: str) -> None:
        around, name = os.path.split(path)
        users = found.setdefault(name, []) if around == directory else []
        users += [user] if user not in users else []

    for path, programs in open_files(directory).items():
        for program in programs:
            add(path, program)
    for path, domains in files_of_local_domains().items():
        for file in _chain(path):
            for domain in domains:
                add(os.path.realpath(file), f"libvirt's domain {domain!r}")
    return found


def _chain(path: str) -> Iterator[str]:
    """Yield a file and its backing files."""
    seen: set[str] = set()
    while path not in seen and len(seen) < _LONGEST_CHAIN:
        seen.add(path)
        yield path
        name = _read_backing_name(path, is_named=len(seen) == 1)
        if name is None:
            return
        path = os.path.join(os.path.dirname(path), _file_in(name))


def _file_in(name: str) -> str:
    """Return the path in the name of a backing file, which may be a description in JSON, or begin with a protocol."""
    if name.startswith("json:"):
        import json

        with contextlib.suppress(ValueError, RecursionError):
            return _find_name(json.loads(name[len("json:") :])) or name
    return name[len("file:") :] if name.startswith("file:") else name


def _find_name(node: object) -> str | None:
    """Return the name of the file in a description of an image."""
    if not isinstance(node, Mapping):
        return None
    name = node.get("filename", node.get("file.filename", node.get("file.file.filename")))
    return name if isinstance(name, str) else _find_name(node.get("file"))


def _read_backing_name(path: str, *, is_named: bool) -> str | None:
    """Return the name of the backing file in the header of a file, or ``None`` without one.

    :arg is_named: whether a domain names the file. A name in a header can be anything.
    :raises FileAccessFailed: a domain's file can't be read.
    """
    try:
        try:
            return _read_header(path)
        except PermissionError:  # root has no rights on some file servers
            with acting_as(owner_of(os.stat(path))):
                return _read_header(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PathNotAllowed:
        if is_named:
            raise
        return None
    except OSError as error:
        if not is_named or error.errno == errno.EINVAL:  # not a file, such as a directory
            return None
        raise from_os_error(error, f"read {path}, which may be based on a container disk") from error


def _read_header(path: str) -> str | None:
    with opened_parent(os.path.realpath(path), option="directory") as (directory, name):
        descriptor = open_file_at(directory, name, os.O_RDONLY | os.O_NONBLOCK, check=_require_file)
    try:
        header = Qcow2Header.parse(os.pread(descriptor, HEADER_SIZE, 0))
        length = min(header.backing_length, _LONGEST_NAME)
        name = os.fsdecode(os.pread(descriptor, length, header.backing_offset)) if header.backing_offset else ""
        return name.partition("\0")[0] or None
    except (ValueError, OverflowError):  # another format, without a backing file
        return None
    finally:
        os.close(descriptor)


def _require_file(found: int) -> None:
    """Refuse anything but files and block devices, because opening another device can have effects."""
    kind = os.fstat(found).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise OSError(errno.EINVAL, "it is no file")


__all__ = ["find_users"]
